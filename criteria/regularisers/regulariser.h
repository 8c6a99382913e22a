#pragma once

#include <memory>
#include <string>

#include "criteria/regularisers/unit_weights.h"
#include "env/base/registry.h"

namespace espalier {

/// Makes whole units small while a network trains, so that cutting them costs little. The term
/// added to the loss is the sum over units k of c_k s_k: a size s_k, differentiable in the weights,
/// times a strength c_k that is held while the gradient is taken.
///
/// Shapes   sizes, strengths, memory: [total units], see UnitWeights.
/// State    memory alone: zeros at the start, changed once an epoch, kept by checkpoints.
/// Random   nothing.
class Regulariser {
 public:
  virtual ~Regulariser() = default;
  /// Which members it acts on: all weights but biases, unless a regulariser says otherwise.
  virtual bool Counts(const GroupView::Slice& slice) const { return !slice.is_bias; }
  virtual Tensor Sizes(const UnitWeights& weights) const = 0;
  /// sizes: without gradient.
  virtual Tensor Strengths(const UnitWeights& weights, const Tensor& sizes,
                           const Tensor& memory) const = 0;
  /// After each epoch; memory is changed in place.
  virtual void Remember(const UnitWeights&, const Tensor& /*sizes*/, Tensor& /*memory*/) const {}
};

/// "group_sparsity", "growing(lambda=1e-4, delta=1e-4)". Errors: kConfig naming the regulariser or
/// option that is unknown, with the nearest one.
std::unique_ptr<Regulariser> MakeRegulariser(const std::string& text);

/// The sum of c_k s_k. [], differentiable.
Tensor Penalty(const Regulariser& regulariser, const UnitWeights& weights, const Tensor& memory);

/// I_k^2: the sum of squares over all of a unit's weights.
Tensor SquaredNorms(const UnitWeights& weights);

}  // namespace espalier

/// At the end of a regulariser's .cc:
/// ESPALIER_REGISTER_REGULARISER(Growing, GrowingConfig, {.name = ...});
#define ESPALIER_REGISTER_REGULARISER(Impl, Config, ...)                                 \
  namespace {                                                                            \
  const ::espalier::Registration<::espalier::Regulariser, Impl, Config> register_##Impl( \
      ::espalier::EntryInfo __VA_ARGS__);                                                \
  }
