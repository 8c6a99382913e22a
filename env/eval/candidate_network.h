#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "env/eval/inference_rewrite.h"
#include "env/graph/executor.h"
#include "env/space/plan.h"

namespace espalier {

/// One graph, rewritten for inference, that runs every cut of a Space: a candidate is a set of
/// sliced tensors and edited literals. Folding a batch norm scales rows, so a slice of what was
/// folded is what folding the slice gives; equal to Cut + InferenceNetwork up to float rounding.
///
/// A branch that adds into a trunk of full width (decoupled residuals) computes all its rows, zeros
/// where they are cut: oneDNN works in blocks of 16 rows, and one fused addition beats a scatter.
///
/// Threads  Bind may be called concurrently. Executor::Run is const.
/// Cost     making one: a forward of two samples. Bind: a copy of the kept weights.
class CandidateNetwork {
 public:
  /// dtype: kFloat leaves every tensor's type; kBFloat16 casts weights; inputs go through
  /// PrepareInput. device: where candidates are made and run. The space must outlive this.
  explicit CandidateNetwork(const Space& space, at::ScalarType dtype = at::kFloat,
                            at::Device device = at::kCPU);

  struct Bound {
    Binding binding;
    /// By op: what of a candidate reaches it directly, 0 = nothing. Two candidates compute the same
    /// values before the first op where these differ.
    std::vector<uint64_t> signature;
    int64_t bytes = 0;  ///< of its own tensors, those shared through the cache included
  };
  Bound Bind(const Selection& selection) const;

  /// What a plan leaves of a stored tensor of network(), by canonical name.
  struct Kept {
    std::string source;          ///< the tensor of the Space's network it was made from
    std::vector<KeptAxis> axes;  ///< the rest of these is cut
    std::vector<int64_t> rows;   ///< unless empty: the other rows become zeros
  };
  Kept KeptOf(const std::string& name, const Plan& plan) const;
  std::string SourceOf(const std::string& name) const { return OriginOf(name).source; }

  const Space& space() const { return space_; }
  const Executor& executor() const { return executor_; }
  const Network& network() const { return network_; }

 private:
  struct Slice {
    Tensor tensor;
    uint64_t signature = 0;
  };
  Slice SliceOf(const std::string& name, const Plan& plan) const;
  InferenceRewrite::Origin OriginOf(const std::string& name) const;

  const Space& space_;
  std::map<std::string, InferenceRewrite::Origin> origins_;
  Network network_;  // before executor_, which refers to its graph
  Executor executor_;

  static constexpr int64_t kCacheBytes = int64_t{256} << 20;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<std::string, uint64_t>, Tensor> slices_;  // by name and kept indices
  mutable int64_t cached_bytes_ = 0;
};

}  // namespace espalier
