#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "env/data/dataset.h"
#include "env/graph/executor.h"

namespace espalier::internal {

using Gradients = std::map<std::string, Tensor>;  ///< name -> [batches or samples, sizes of it]
/// What backward() left in these leaves, which it clears: [1, ...] each.
Gradients TakeGradients(const std::map<std::string, Tensor>& leaves);

/// Gradients of single samples' losses, many samples at a time: one forward and backward of a
/// batch, then each sample's share in closed form from what a layer read and the gradient of what
/// it returned. Known are linear layers, convolutions, embeddings, batch, layer and RMS norms,
/// products and sums with a parameter. Networks that read a parameter in another way, or mix the
/// samples' axis with others, are taken sample by sample; so are those where both ways disagree on
/// the first two samples.
///
/// Source   Goodfellow, "Efficient Per-Example Gradient Computations", arXiv:1510.01799 (linear
///          layers); Rochette, Manoel, Tramel, arXiv:1912.06015 (convolutions).
/// Memory   as many copies of the parameters as samples are taken together, up to 64 MiB.
class SampleGradients {
 public:
  /// Of one sample: [].
  using SampleLoss = std::function<Tensor(const std::vector<Tensor>& outputs, const Batch& sample)>;

  /// parameters: leaves that require gradients, by canonical name. Borrows executor and store.
  /// convolutions: take them together too. On CPUs a convolution of one sample is as fast as its
  /// share of many, and nothing is won; elsewhere small kernels wait for each other.
  SampleGradients(const Executor& executor, const ParameterStore& store,
                  std::map<std::string, Tensor> parameters, bool convolutions);

  /// Gives the gradients of all samples to `take`, some at a time, in order.
  void Each(const Binding& binding, const Batch& batch, const SampleLoss& loss,
            const std::function<void(const Gradients&)>& take);
  bool together() const { return together_.value_or(false); }  ///< after Each: the fast way

 private:
  /// One argument of one op that is one of the parameters.
  struct Site {
    const Op* op = nullptr;
    std::string argument, name;  // name: canonical
    ValueId input = kNoValue, output = kNoValue;
  };
  void Add(const Op& op, const std::string& argument, const std::string& name);
  int64_t SamplesTogether() const;
  bool Agree(const Binding& binding, const Batch& two, const SampleLoss& loss) const;
  /// Nothing when some value does not have the samples on axis 0.
  Gradients Together(const Binding& binding, const Batch& batch, const SampleLoss& loss) const;
  Gradients Alone(const Binding& binding, const Batch& sample, const SampleLoss& loss) const;
  /// A site's gradients, [samples, ...]; undefined when samples cannot be told apart in it.
  Tensor Share(const Site& site, const Tensor& x, const Tensor& delta) const;

  const Executor& executor_;
  const Graph& graph_;
  const ParameterStore& store_;
  const std::map<std::string, Tensor> parameters_;
  const bool convolutions_;
  bool known_ = true;             // every site is
  std::optional<bool> together_;  // once it is decided
  std::vector<Site> sites_;
};

}  // namespace espalier::internal
