#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "env/graph/network.h"

namespace espalier {

enum class Mode { kEval, kTrain };  ///< kTrain: batch statistics, dropout active, buffers updated

/// Multiplies one argument of one op along an axis before the call; the graph stays as it is.
/// Two gates with equal `multiplier` handles on the same value are computed once.
struct Gate {
  int32_t op = -1;
  int32_t arg = -1;
  int32_t element = 0;  ///< for list arguments
  int64_t axis = 1;     ///< -1: the multiplier has the argument's rank and broadcasts to it
  Tensor multiplier;    ///< [size of that axis]; may require grad
};

/// Called with a value right after it was computed (after in-place ops on it have NOT yet run).
/// Computed sizes arrive as 0-dim int64 tensors.
struct Tap {
  ValueId value;
  std::function<void(const Tensor&)> record;
};

/// A literal argument that differs from the graph: how a candidate's edited attributes (groups,
/// view sizes, pads) reach the executor without copying the graph.
struct ArgEdit {
  int32_t op = -1;
  int32_t arg = -1;
  Arg value;
};

/// Parameters by view: tensors of one candidate, resolved to slots. Cheap: holds handles.
class Binding {
 public:
  const Tensor& tensor(ValueId id) const { return tensors_[static_cast<size_t>(id)]; }

 private:
  friend class Executor;
  std::vector<Tensor> tensors_;  // by value id; undefined for results and inputs
  std::vector<ArgEdit> edits_;   // sorted by op
  /// By op: an index_add over channels as a 0/1 matrix [C, kept, 1, 1]; a single number when it
  /// adds at every index in order; undefined otherwise.
  std::vector<Tensor> scatter_;
  std::vector<ArgEdit> devices_;  // sorted by op: device literals that are not the tensors'
};

struct RunOptions {
  Mode mode = Mode::kEval;
  std::span<const Gate> gates{};
  std::span<const Tap> taps{};
  bool shapes_only = false;  ///< results have the right shape and type; floating ones are zeros
};

/// Runs a Graph op by op through the dispatcher: any operator LibTorch knows runs and, when grad
/// mode is on, differentiates. Values are freed after their last use. Device and dtype come from
/// the tensors: device literals of the archive give way to where the stored tensors are. Inputs
/// are never changed: one that an in-place operator may reach is copied first.
///
/// Errors   kModel naming op, module path and input shapes when an operator throws; c10 out-of-
///          memory errors pass through unchanged.
/// Threads  Run is const and may be called concurrently.
/// Cost     about 1 us an op on top of the kernels.
class Executor {
 public:
  explicit Executor(const Graph& graph);  ///< keeps a reference: the graph must outlive it

  /// Errors: kModel when the store lacks a name the graph reads.
  Binding Bind(const ParameterStore& store, std::vector<ArgEdit> edits = {}) const;
  std::vector<Tensor> Run(const Binding& binding, const std::vector<Tensor>& inputs,
                          const RunOptions& options = {}) const;

  /// A run in eval mode that stands before op `next`: how candidates that agree up to there share
  /// the way. A copy shares its tensors; Fork makes one that can go on by itself.
  struct Progress {
    std::vector<c10::IValue> slots;  ///< by value id
    int32_t next = 0;
  };
  Progress Start(const Binding& binding, const std::vector<Tensor>& inputs) const;
  void Advance(const Binding& binding, Progress& progress,
               int32_t last) const;  ///< runs [next, last)
  /// The same point under another binding, in memory of its own, so that in-place operators of one
  /// branch leave the other alone.
  Progress Fork(const Progress& progress, const Binding& binding) const;
  std::vector<Tensor> Outputs(const Progress& progress) const;  ///< after the last op

  const Graph& graph() const { return graph_; }

 private:
  struct Step;
  void RunOps(const Binding& binding, const RunOptions& options, Step& step, int32_t first,
              int32_t last) const;
  const Graph& graph_;
  std::vector<int32_t> last_use_;                 // by value id: op after which it is freed
  std::vector<std::vector<ValueId>> free_after_;  // by op
  /// By op: what is called. A view is a reshape: which strides a value has depends on its type and
  /// on what made it, and an archive only knows those of its export.
  std::vector<c10::OperatorHandle> calls_;
  std::vector<int32_t> mode_arg_;  // by op: index of the train flag, or -1
  std::vector<bool> copy_input_;   // by input: an in-place operator may reach it
};

/// One forward of a network in eval mode: convenience for tests and tools.
Tensor Forward(const Network& network, const Tensor& input);

/// Shape and dtype of every value for the given batch size: one forward on the sample inputs.
struct ValueMeta {
  std::vector<int64_t> sizes;
  at::ScalarType dtype = at::kFloat;
  std::optional<int64_t> scalar{};  ///< of a computed size
};
std::vector<ValueMeta> InferMeta(const Network& network, int64_t batch);

/// Inputs of the recorded shapes at this batch size, the other open sizes as recorded. The values
/// are the archive's samples, repeated along the batch, where it has some; else integers below the
/// size of the table they index, and zeros. See sample_inputs.h.
std::vector<Tensor> SampleInputs(const Network& network, int64_t batch);

}  // namespace espalier
