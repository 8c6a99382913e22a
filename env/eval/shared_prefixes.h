#pragma once

#include <cstdint>
#include <vector>

#include "env/graph/executor.h"

namespace espalier {

/// What of a candidate reaches each op directly (CandidateNetwork::Bound::signature): two compute
/// the same values before the first op where theirs differ.
using Signature = std::vector<uint64_t>;

/// An order in which candidates with a common prefix stand together, few before many: then few of
/// the points where they part have to be held at a time (no more than log2 of their number).
/// Returns positions in `signatures`, which have one length.
std::vector<size_t> PrefixOrder(const std::vector<const Signature*>& signatures);

/// Runs candidates of one graph on the same inputs, each from where it parts from those before it.
///
/// Threads  none; the executor must outlive it.
/// Memory   the values at up to six points where candidates part.
class SharedPrefixes {
 public:
  /// order: the candidates as they will come. Null signatures share nothing.
  SharedPrefixes(const Executor& executor, std::vector<Tensor> inputs,
                 const std::vector<const Signature*>& order);

  /// Outputs of candidate `index` of the order. Indices rise from call to call; some may be left
  /// out. Errors: those of Executor::Run; the next candidate may be run all the same.
  std::vector<Tensor> Run(size_t index, const Binding& binding);

  int64_t ops_due() const { return ops_due_; }  ///< of the candidates so far, one by one
  int64_t ops_run() const { return ops_run_; }  ///< what they took

 private:
  std::vector<int32_t> PartingPoints(size_t index, int32_t begin, bool* comes_back) const;

  const Executor& executor_;
  const std::vector<Tensor> inputs_;
  const int32_t ops_;
  std::vector<int32_t> common_;           // by candidate: ops it has in common with the next
  std::vector<Executor::Progress> held_;  // ascending by next: points that later ones start from
  size_t next_ = 0;                       // the last one that was run; held_ fits it
  int64_t ops_due_ = 0, ops_run_ = 0;
};

}  // namespace espalier
