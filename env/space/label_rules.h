#pragma once

#include <string>
#include <unordered_map>

#include "env/base/error.h"
#include "env/space/label_tracer.h"

namespace espalier {

/// What a label rule works on: one op of the network that is being traced.
struct Call {
  LabelTracer& t;
  int32_t index;
  const Op& op;

  std::string name() const { return op.handle.operator_name().name; }
  std::string where() const { return Str(op.target(), " at '", op.module_path, "'"); }
  ValueId out() const { return op.outputs.front(); }
  const std::vector<int64_t>& out_sizes() const { return t.sizes(out()); }
  int64_t out_rank() const { return static_cast<int64_t>(out_sizes().size()); }
  int64_t rank(ValueId value) const { return static_cast<int64_t>(t.sizes(value).size()); }
  /// An int argument, wrapped into [0, rank).
  int64_t Dim(const std::string& argument, int64_t rank) const;
  /// A constant argument, or null when it is absent or computed.
  const c10::IValue* Constant(const std::string& argument) const;
  const Tensor& ids(ValueId value) const { return t.labels(value).ids; }
  /// The op that stands at `index` in the network, to rewrite it.
  Op& Mutable() const { return t.network().graph.ops[static_cast<size_t>(index)]; }
};

using LabelRule = void (*)(const Call&);
using LabelRules = std::unordered_map<std::string, LabelRule>;  ///< operator name -> rule

// One table a family; operators without a rule pin everything they read, with their name.
/// The rule of several operators: "conv1d conv2d" of aten.
void AddRules(LabelRules& rules, LabelRule rule, const std::string& names);
void AddElementwiseRules(LabelRules& rules);
void AddMovementRules(LabelRules& rules);
void AddPickingRules(LabelRules& rules);
void AddContractionRules(LabelRules& rules);
void AddProductRules(LabelRules& rules);
void AddNormRules(LabelRules& rules);
void AddRecurrentRules(LabelRules& rules);
void AddSpectralRules(LabelRules& rules);

/// Applies the rule of one op.
void ApplyLabelRule(LabelTracer& tracer, int32_t op_index);

// Shared by the families.
void PinInputs(const Call& c, const std::string& reason);
void Opaque(const Call& c);  ///< no rule: pins everything the op reads
bool AnyLabelled(const Call& c);
/// Labels of what an op works on, which may have been made of stored tensors alone: a query that is
/// learned, a table that is resized.
const Tensor& Data(const Call& c, ValueId input);
/// What numbers this argument holds does not matter: its type is taken, or it is overwritten.
bool IgnoresNumbers(const Op& op, const Use& use);
/// Output 0 gets the labels of the first argument.
void CopyLabels(const Call& c);
/// Labels of a value that is moved, at full size. A stored tensor that is moved before it is used
/// is only noted: whether it is a weight or an operand shows where it is read.
Tensor FullLabels(const Call& c, ValueId input);
void SetMoved(const Call& c, ValueId output, const Tensor& moved);
/// A movement whose constant arguments mean the same to labels as to data.
void Move(const Call& c);
/// x @ W (+ bias): the weight's axes are `in` and 1 - in; it is stored, or moved around since.
void Dense(const Call& c, ValueId input, ValueId weight, ValueId bias, int64_t in);
/// Couples ids with a stored tensor's coordinates. Coordinates that meet data which cannot be cut
/// are pinned: a tensor used twice may meet prunable data elsewhere.
void Tie(const Call& c, const std::vector<int64_t>& ids, const CoordinateAxis& axis);
void Tie(const Call& c, const std::vector<int64_t>& ids, const std::vector<int64_t>& coordinates);
/// A bias [rows]: stored, moved around, or (rows are pinned then) computed.
void TieBias(const Call& c, ValueId bias, const std::vector<int64_t>& rows);
/// Output 0 gets these labels along one axis.
void SetFresh(const Call& c, int64_t axis_position, const std::vector<int64_t>& ids);
/// Makes everything along an axis go together; it becomes size 1.
Tensor Together(const Call& c, const Tensor& ids, int64_t axis);
/// Right-aligns labels with a broadcast result of `rank` axes.
Tensor Align(const Tensor& ids, int64_t rank);
/// Element-wise meeting of two operands (labels may be undefined, sizes are the real ones, all of
/// the same rank): unions what meets, ties slabs with what is broadcast over them, pins what meets
/// data that cannot be cut. Returns the result's labels; undefined when there are none.
Tensor Meet(const Call& c, const Tensor& a, const std::vector<int64_t>& a_sizes, const Tensor& b,
            const std::vector<int64_t>& b_sizes);
Tensor UnionElements(const Call& c, const Tensor& a, const Tensor& b);  ///< same sizes, or rigid
/// Pins the slabs along an axis: as many of them as there are have to stay.
void PinSlabs(const Call& c, const Tensor& ids, const std::vector<int64_t>& kept,
              const std::string& reason);
/// What remains of labels when `axes` are contracted or reduced (they become size 1): with the
/// inner axis gone, slabs (heads); with an outer one gone, what was summed over it goes together.
Tensor Remaining(const Call& c, const Tensor& ids, const std::vector<int64_t>& axes);

}  // namespace espalier
