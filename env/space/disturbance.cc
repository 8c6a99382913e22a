#include "env/space/disturbance.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "env/base/rng.h"

namespace espalier {

double MaxAbs(const Tensor& tensor) {
  return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>();
}

at::Generator NoiseStream(uint64_t seed, const std::string& purpose) {
  return at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed, 0, "certificate " + purpose));
}

namespace {

/// 1 for what does not vary.
double Deviation(const Tensor& tensor) {
  const double deviation = tensor.numel() > 1 ? tensor.std().item<double>() : 0;
  return deviation > 0 ? deviation : 1;
}

}  // namespace

Disturbance::Disturbance(const Network& network, uint64_t seed) : seed_(seed) {
  for (const Op& op : network.graph.ops) {
    const std::string& name = op.handle.operator_name().name;
    const auto draw = [&](const char* argument, double low, double high) {
      const ValueId id = op.ArgIndex(argument) < 0 ? kNoValue : op.ValueArg(argument);
      if (id == kNoValue) return;
      const std::string& target = network.graph.values[static_cast<size_t>(id)].target;
      if (!target.empty()) ranges_[network.store.Canonical(target)] = {low, high};
    };
    if (name == "aten::mul")
      for (const Use& use : UsesOf(op)) {
        const std::string& target = network.graph.values[static_cast<size_t>(use.value)].target;
        constexpr double kNoScale = 0.05;
        if (target.empty() || !network.store.Get(target).is_floating_point()) continue;
        if (MaxAbs(network.store.Get(target)) < kNoScale)
          ranges_[network.store.Canonical(target)] = {0.5, 1.5};
      }
    if (name == "aten::layer_norm" || name == "aten::group_norm" || name == "aten::rms_norm") {
      draw("weight", 0.5, 1.5);
      draw("bias", -1.5, 1.5);
    }
    if (name != "aten::batch_norm") continue;
    draw("weight", 0.5, 1.5);  // depgraph: gamma, var ~ U(.5, 1.5), mean and beta of order 1
    draw("bias", -1.5, 1.5);
    draw("running_mean", -1.5, 1.5);
    draw("running_var", 0.5, 1.5);
  }
}

Tensor Disturbance::Of(const std::string& name, const Tensor& tensor) const {
  if (!tensor.is_floating_point()) return tensor;
  const auto range = ranges_.find(name);
  if (range == ranges_.end()) return tensor.detach().to(at::kDouble);
  const auto [low, high] = range->second;
  return at::empty(tensor.sizes(), at::kDouble)
      .uniform_(low, high, NoiseStream(seed_, "statistics " + name));
}

TensorLoader NoisyProducers(const Space& space, const ParameterStore& store,
                            const std::vector<uint8_t>& chosen, uint64_t seed) {
  std::map<std::string, std::map<int64_t, std::vector<int64_t>>> rows;  // parameter -> axis -> rows
  for (size_t g = 0; g < space.groups().size(); ++g)
    for (const Member& member : space.groups()[g].members) {
      if (member.role != MemberRole::kProducer || member.blocks > 1) continue;
      for (int64_t u = 0; u < member.units(); ++u)
        if (chosen[static_cast<size_t>(space.unit_offset(g) + member.first_unit + u)])
          for (int64_t k = 0; k < member.per_unit; ++k)
            rows[member.parameter][member.axis].push_back(
                member.indices[static_cast<size_t>(u * member.per_unit + k)]);
    }
  return [&store, seed, rows = std::move(rows)](const std::string& name) {
    const auto found = rows.find(name);
    if (found == rows.end()) return store.Get(name);
    const Tensor tensor = store.Get(name).detach().clone();
    at::Generator generator = NoiseStream(seed, "noise " + name);
    const double scale = 3 * Deviation(tensor);
    for (const auto& [axis, places] : found->second) {
      const Tensor index = at::tensor(places, at::kLong);
      std::vector<int64_t> sizes = tensor.sizes().vec();
      sizes[static_cast<size_t>(axis)] = index.numel();
      tensor.index_copy_(axis, index, at::randn(sizes, generator, tensor.options()) * scale);
    }
    return tensor;
  };
}

TensorLoader NoisyRemoved(const Plan& plan, const ParameterStore& store, const TensorLoader& load,
                          double deviations, uint64_t seed) {
  return [=, &plan, &store, &load](const std::string& name) {
    const auto cut = plan.kept.find(name);
    const bool goes = std::ranges::binary_search(plan.removed, name);
    Tensor tensor = load(name);
    if ((cut == plan.kept.end() && !goes) || !tensor.is_floating_point() ||
        (store.Kind(name) != StoreKind::kParameter && tensor.dim() < 2))
      return tensor;
    at::Generator generator = NoiseStream(seed, "removed " + name);
    Tensor noise = at::randn(tensor.sizes(), generator, tensor.options().requires_grad(false)) *
                   (deviations * Deviation(tensor.detach()));
    if (goes) return noise;
    return WithKept(noise, tensor, cut->second);
  };
}

}  // namespace espalier
