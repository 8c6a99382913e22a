#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "env/base/tensor.h"

namespace espalier {

using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;

/// A list argument made of values: Tensor[] or Tensor?[] (kNoValue stands for None).
struct ValueList {
  std::vector<ValueId> ids;
};
/// An int list of which some entries are computed values (symbolic sizes).
struct ScalarList {
  std::vector<std::variant<int64_t, ValueId>> items;
};
/// One argument of an Op: a value, a list, or a constant.
using Arg = std::variant<ValueId, ValueList, ScalarList, c10::IValue>;

/// One ATen operator call. Arguments stand in schema order and are complete (defaults filled in).
struct Op {
  std::string name;            ///< unique in the graph: "conv2d_3"
  c10::OperatorHandle handle;  ///< executed by a boxed call
  std::vector<Arg> args;
  std::vector<ValueId> outputs;  ///< one per returned tensor; list returns are flattened
  bool returns_list = false;     ///< the op returns one Tensor[] (chunk, split)
  std::string module_path;       ///< "layer1.0.conv1"; "" at the root
  std::string module_type;       ///< "torch.nn.modules.conv.Conv2d"; may be empty

  std::string target() const;                           ///< "aten::conv2d" or "aten::add.Tensor"
  int ArgIndex(const std::string& argument) const;      ///< position in the schema; -1 when absent
  ValueId ValueArg(const std::string& argument) const;  ///< kNoValue when absent, None or constant
  /// A constant argument. Errors: internal when it is absent or not constant.
  const c10::IValue& Constant(const std::string& argument) const;
};

enum class ValueKind { kInput, kParameter, kBuffer, kConstant, kResult };

struct Value {
  std::string name;  ///< unique in the graph: "x", "p_conv1_weight", "relu_3"
  ValueKind kind = ValueKind::kResult;
  std::string target;     ///< name in the ParameterStore for parameters, buffers and constants
  int32_t producer = -1;  ///< index of the op that makes it; -1 for inputs and stored tensors
};

/// What a network input looks like. Axis 0 is the batch when dynamic_batch.
struct InputSpec {
  ValueId value = kNoValue;
  std::vector<int64_t> sizes;  ///< as recorded; axis 0 is a sample value when dynamic_batch
  at::ScalarType dtype = at::kFloat;
  bool dynamic_batch = true;
  /// Per axis: how the size follows from Graph::symbols, "" where it is fixed. Empty: only
  /// dynamic_batch counts. See size_expression.h.
  std::vector<std::string> size_expressions{};
  Tensor sample{};  ///< an example with legal values; undefined = none is known
};

enum class StoreKind { kParameter, kBuffer, kConstant };

/// Name -> tensor, in insertion order; several names may share one tensor (tied weights).
/// Copies share tensors: Clone() to own them. Names are PyTorch's ("layer1.0.conv1.weight").
///
/// Errors   kModel for an unknown name, with the nearest known one.
class ParameterStore {
 public:
  void Add(const std::string& name, Tensor tensor, StoreKind kind);
  void Tie(const std::string& alias, const std::string& name);  ///< alias shares name's tensor
  bool Has(const std::string& name) const { return index_.contains(name); }
  const Tensor& Get(const std::string& name) const;
  StoreKind Kind(const std::string& name) const;
  /// The first name under which this tensor was added: equal for tied names.
  const std::string& Canonical(const std::string& name) const;
  void Set(const std::string& name, Tensor tensor);                 ///< for every name tied to it
  const std::vector<std::string>& names() const { return names_; }  ///< ties included
  std::vector<std::string> CanonicalNames() const;                  ///< one per distinct tensor
  ParameterStore Clone() const;    ///< deep copy, detached; ties kept, requires_grad cleared
  int64_t ParameterCount() const;  ///< elements of parameters, tied ones once; buffers not counted
  void SetRequiresGrad(bool on);   ///< floating parameters only
  ParameterStore To(at::Device device) const;

 private:
  struct Slot {
    std::string canonical;
    Tensor tensor;
    StoreKind kind;
  };
  std::vector<Slot> slots_;
  std::unordered_map<std::string, size_t> index_;
  std::vector<std::string> names_;
};

/// The op list and its values; topologically ordered by construction. Never changed after building.
struct Graph {
  std::vector<Op> ops;
  std::vector<Value> values;
  std::vector<InputSpec> inputs;
  std::vector<ValueId> outputs;
  std::map<std::string, int64_t> symbols{};  ///< sizes the archive leaves open, as recorded
  std::string batch_symbol{};                ///< the one that axis 0 of the inputs follows; or ""

  std::vector<std::vector<int32_t>> Consumers() const;  ///< value -> ops that read it
  ValueId FindStored(const std::string& target) const;  ///< value that reads this store name
};

/// A graph of ATen calls and its parameters. A value type: copying shares tensors.
struct Network {
  std::string name;
  Graph graph;
  ParameterStore store;
  /// Foreign files of the archive it came from, carried through ("extra/notes.txt" -> bytes).
  std::map<std::string, std::string> extras;

  std::string WeightsHash() const;  ///< SHA-256 over names, shapes, dtypes and bytes, in name order
};

/// Checks ids, argument counts and order; throws kModel naming op and module path.
void Validate(const Graph& graph);

/// Values an op reads, with their place: argument index and element of a list argument.
struct Use {
  ValueId value;
  int32_t arg;
  int32_t element;  ///< 0 unless the argument is a list
};
std::vector<Use> UsesOf(const Op& op);

/// The handle of "aten::conv2d" / overload "" . Errors: kModel when the dispatcher lacks it.
c10::OperatorHandle FindOperator(const std::string& name, const std::string& overload);

}  // namespace espalier
