#pragma once

#include <ATen/ATen.h>

#include <numeric>
#include <utility>
#include <vector>

#include "criteria/criterion.h"
#include "env/base/rng.h"
#include "env/graph/builder.h"

namespace espalier {

inline Tensor RandomTensor(Rng& rng, at::IntArrayRef sizes, double shift = 0) {
  Tensor values = at::empty(sizes, at::kFloat);
  auto* data = values.mutable_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) data[i] = static_cast<float>(rng.Normal() + shift);
  return values;
}

/// Two convolutions with batch norms and a classifier, random in everything, and two batches: every
/// criterion can score both of its groups.
class CalibratedNetwork {
 public:
  using Scores = std::vector<std::vector<double>>;
  explicit CalibratedNetwork(uint64_t seed) : network_(Make(seed)), space_(BuildSpace(network_)) {
    Rng rng(seed, 0, "calibration");
    for (int batch = 0; batch < 2; ++batch) {
      std::vector<int64_t> labels;
      for (int i = 0; i < 4; ++i) labels.push_back(static_cast<int64_t>(rng.Index(3)));
      batches_.push_back({.inputs = {RandomTensor(rng, {4, 3, 5, 5})},
                          .targets = {at::tensor(labels, at::kLong)}});
    }
  }
  CalibratedNetwork(const CalibratedNetwork&) = delete;
  CalibratedNetwork& operator=(const CalibratedNetwork&) = delete;

  const Network& network() const { return network_; }
  const Space& space() const { return space_; }
  Calibration calibration() const { return CalibrationOf(batches_); }

  Scores Score(const Criterion& criterion, const ParameterStore& store, uint64_t seed = 7) const {
    const Statistics statistics =
        CollectStatistics(space_, store, criterion.needs(), calibration());
    return ScoreGroups(criterion, space_, store, seed, &statistics);
  }

  /// The same function with the units of one group in another order.
  ParameterStore Permuted(size_t group, const std::vector<int64_t>& order) const {
    ParameterStore store = network_.store.Clone();
    for (const Member& member : space_.groups()[group].members) {
      const Tensor& tensor = store.Get(member.parameter);
      std::vector<int64_t> from(static_cast<size_t>(tensor.size(member.axis)));
      std::iota(from.begin(), from.end(), 0);
      const auto per = static_cast<size_t>(member.per_unit);
      for (size_t unit = 0; unit < order.size(); ++unit)
        for (size_t i = 0; i < per; ++i)
          from[static_cast<size_t>(member.indices[unit * per + i])] =
              member.indices[static_cast<size_t>(order[unit]) * per + i];
      store.Set(member.parameter,
                tensor.index_select(member.axis, at::tensor(from, at::kLong)).contiguous());
    }
    return store;
  }

 private:
  static Network Make(uint64_t seed) {
    Builder b("calibrated", seed);
    ValueId x = b.Input("x", {2, 3, 5, 5});
    x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, 6, {.padding = 1}), 6));
    x = b.Relu(b.BatchNorm2d("bn2", b.Conv2d("conv2", x, 6, 5, {.stride = 2}), 5));
    Network network = b.Finish({b.Linear("fc", b.Flatten(x), 5 * 4, 3)});
    Rng rng(seed, 0, "calibrated network");
    for (const std::string norm : {"bn1", "bn2"}) {
      for (const char* name : {".weight", ".bias", ".running_mean"}) {
        const Tensor& old = network.store.Get(norm + name);
        network.store.Set(norm + name, RandomTensor(rng, old.sizes(), 0.5));
      }
    }
    return network;
  }

  const Network network_;
  const Space space_;
  std::vector<Batch> batches_;
};

}  // namespace espalier
