#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"

namespace espalier {

/// Rewrites a private copy of a network for inference, pass by pass. Ops are replaced where they
/// stand or left as they are; results are equal up to float rounding.
///
/// The passes know which values share memory from one run on zeros, so that views, in-place ops and
/// pass-through ops (dropout in eval mode) are seen for what they are.
class InferenceRewrite {
 public:
  explicit InferenceRewrite(Network network);

  /// Ops that are to stay as they are: candidates change their literals.
  void Keep(std::set<std::string> ops) { kept_ = std::move(ops); }

  /// Copies nothing needs, dropout, ReLU of a ReLU.
  void DropIdle();
  /// batch_norm behind a convolution or linear layer that nothing else reads: into its weights.
  void FoldBatchNorm();
  /// Convolution weights to channels_last.
  void UseChannelsLast();
  /// CPU float32: convolution + activation, and convolution + residual add (+ activation), as one
  /// call of oneDNN; the add in place on the shortcut when nothing reads that later. A branch that
  /// index_add scatters into its trunk gets zero rows instead where that is cheap.
  void FuseConvolutions();

  /// All floating tensors to this type; the last pass.
  void CastTo(at::ScalarType dtype);

  /// All passes that help on this device. kFloat leaves every tensor's type as it is.
  void ApplyAll(at::ScalarType dtype);
  int64_t fused_ops() const { return fused_; }  ///< ops that became part of another

  /// What a stored tensor of the rewritten network was made from, so that a cut of the source is
  /// one of it.
  struct Origin {
    std::string source;      ///< canonical name in the given network; empty: no slice of anything
    bool rows_only = false;  ///< has axis 0 of the source only (a folded bias of a weight)
    /// Adds into a trunk of full width (index_add over all channels): rows that are cut become
    /// zeros and stay.
    bool keeps_rows = false;
  };
  /// By store name; names that are not listed are the given network's own.
  const std::map<std::string, Origin>& origins() const { return origins_; }
  Network Take();  ///< the rewritten network; ends the rewrite

 private:
  struct Activation {
    const char* name;  // oneDNN's: "relu", "hardtanh"
    c10::List<std::optional<at::Scalar>> scalars;
  };
  struct Addition {
    int32_t op = -1;
    ValueId shortcut = kNoValue;
    bool scatter = false;  // index_add
    Tensor index;  // [rows of the convolution], where they go in the sum; undefined = all in order
  };

  static const std::string& NameOf(const Op& op) { return op.handle.operator_name().name; }
  static void SetArg(Op& op, const std::string& argument, Arg value);
  Op& op(int32_t index) { return graph_.ops[static_cast<size_t>(index)]; }
  const Tensor& sample(ValueId id) const { return samples_[static_cast<size_t>(id)]; }
  std::vector<int32_t> Readers(ValueId id) const;
  bool IsOutput(ValueId id) const;
  int32_t OnlyReader(ValueId id) const;
  std::optional<Tensor> Stored(ValueId id) const;
  ValueId AddStored(const std::string& name, const Tensor& tensor, Origin origin);
  Origin OriginOf(ValueId stored) const;
  const void* MemoryOf(ValueId id) const;
  bool SharesMemory(ValueId a, ValueId b) const;
  bool WrittenBetween(ValueId id, int32_t first, int32_t last) const;
  bool MayOverwrite(ValueId id, int32_t position) const;
  void Remove(int32_t index);

  ValueId HandedOn(int32_t index) const;
  bool FoldInto(int32_t producer, int32_t norm);
  bool CanFuse(const Op& op) const;
  std::optional<Activation> ActivationOf(int32_t index) const;
  std::optional<Addition> AdditionOf(int32_t conv) const;
  void AppendConvolution(std::vector<Arg>& args, const Op& conv) const;
  bool FuseAddition(int32_t conv);
  void FuseActivation(int32_t conv);
  void SpreadRows(int32_t conv, const Addition& addition);
  void KeepRows(int32_t conv);

  Network network_;
  Graph& graph_;                 // of network_
  std::vector<Tensor> samples_;  // by value: what it was in one run; keeps the memory apart
  std::map<const void*, const void*> same_memory_;  // of samples that became one
  std::vector<bool> removed_;                       // by op
  std::map<std::string, Origin> origins_;
  std::set<std::string> kept_;  // names of ops
  int64_t fused_ = 0;
};

/// An input as a rewritten network takes it: channels_last where it has four axes, floating ones in
/// `dtype` unless that is kFloat.
Tensor PrepareInput(const Tensor& input, at::ScalarType dtype);
std::vector<Tensor> PrepareInputs(std::vector<Tensor> inputs, at::ScalarType dtype);

}  // namespace espalier
