#include "criteria/gradient_collector.h"

#include <ATen/ATen.h>

#include "criteria/second_order.h"
#include "criteria/unit_layout.h"
#include "env/base/error.h"

namespace espalier::internal {
namespace {

void AddTo(Tensor& total, const Tensor& part) {
  if (total.defined())
    total.add_(part);
  else
    total = part.clone();
}

}  // namespace

GradientCollector::GradientCollector(const Space& space, const ParameterStore& store,
                                     const Needs& needs, const Calibration& calibration)
    : space_(space),
      expansion_(needs.contains(Need::kSampleExpansion)),
      block_products_(needs.contains(Need::kBlockProducts)),
      blocks_(needs.contains(Need::kFisherBlocks)),
      block_(calibration.fisher_block) {
  for (const Group& group : space.groups()) {
    members_.emplace_back(group.members.size());
    for (const Member& member : group.members)
      if (store.Kind(member.parameter) == StoreKind::kParameter &&
          store.Get(member.parameter).is_floating_point())
        sums_.try_emplace(member.parameter);
  }
  for (auto& [name, sum] : sums_) {
    sum.weight = store.Get(name).set_requires_grad(true);
    leaves_[name] = sum.weight;
  }
  if (blocks_) CheckFisherBytes(calibration);
}

void GradientCollector::CheckFisherBytes(const Calibration& calibration) const {
  const at::NoGradGuard no_grad;
  double bytes = 0;
  for (const Group& group : space_.groups())
    for (const Member& member : group.members) {
      const auto found = sums_.find(member.parameter);
      if (found == sums_.end()) continue;
      const Tensor blocks =
          InBlocks(UnitLayout(group, member).Gather(found->second.weight), block_);
      bytes += static_cast<double>(blocks.numel()) * static_cast<double>(blocks.size(2)) *
               static_cast<double>(sizeof(double));
    }
  if (bytes <= static_cast<double>(calibration.max_fisher_bytes)) return;
  throw Error(ErrorKind::kConfig,
              Str("Fisher blocks of ", block_, " weights take ", bytes / (1 << 20),
                  " MiB, more than the ", calibration.max_fisher_bytes >> 20, " allowed"),
              "make the blocks smaller, exclude layers, or remove whole blocks: joint=true");
}

void GradientCollector::Take(const Gradients& gradients, bool samples) {
  const at::NoGradGuard no_grad;
  const int64_t count = gradients.begin()->second.size(0);
  steps_ += count;
  std::map<std::string, Tensor> products;  // w g, [count, ...] contiguous
  for (auto& [name, sum] : sums_) {
    const Tensor& gradient = gradients.at(name);
    const Tensor product = sum.weight.detach() * gradient;
    AddTo(sum.gradient, count == 1 ? gradient.squeeze(0) : gradient.sum(0));
    AddTo(sum.abs_product, at::linalg_vector_norm(product, 1, 0));  // in one pass
    if (samples) AddTo(sum.fisher, gradient.square().sum(0));
    if (samples && expansion_)  // p - p^2 / 2
      AddTo(sum.abs_expansion,
            at::linalg_vector_norm(at::addcmul(product, product, product, -0.5), 1, 0));
    products[name] = product.to(at::kCPU).contiguous();
  }
  for (size_t g = 0; g < members_.size(); ++g) {
    const Group& group = space_.groups()[g];
    for (size_t m = 0; m < members_[g].size(); ++m) {
      const std::string& name = group.members[m].parameter;
      const auto product = products.find(name);
      if (product == products.end()) continue;
      const UnitLayout layout(group, group.members[m]);
      for (int64_t i = 0; i < count; ++i) {
        MemberSum& sum = members_[g][m];
        const Tensor u = layout.Sum(product->second[i]);
        AddTo(sum.absolute, u.abs());
        AddTo(sum.square, u.square());
        if (samples && block_products_)
          AddTo(sum.block_square, BlockSquares(layout, product->second[i], u));
        if (samples && blocks_) AddBlockProducts(sum.blocks, layout, gradients.at(name)[i]);
      }
    }
  }
}

/// u^2 block by block: [units]. sum: u.
Tensor GradientCollector::BlockSquares(const UnitLayout& layout, const Tensor& product,
                                       const Tensor& sum) const {
  const Member& member = layout.member();
  const int64_t coordinates = product.size(member.axis) * (member.axis == 0 ? 1 : member.blocks);
  if (product.numel() / coordinates * member.per_unit <= block_) return sum.square();  // one block
  return InBlocks(layout.Gather(product), block_).sum(2).square().sum(1);
}

/// total += g g^T: [units, blocks, block, block].
void GradientCollector::AddBlockProducts(Tensor& total, const UnitLayout& layout,
                                         const Tensor& gradient) const {
  const Tensor rows = InBlocks(layout.Gather(gradient), block_);  // [units, blocks, block]
  const int64_t size = rows.size(2);
  if (!total.defined()) total = at::zeros({rows.size(0), rows.size(1), size, size}, rows.options());
  const Tensor flat = rows.reshape({-1, size});
  total.view({-1, size, size}).baddbmm_(flat.unsqueeze(2), flat.unsqueeze(1));  // no copy: large
}

Tensor GradientCollector::Mean(const Tensor& sum) const {
  return (sum / static_cast<double>(steps_)).to(at::kCPU, at::kFloat).contiguous();
}

void GradientCollector::ForEachSum(
    Statistics& statistics,
    const std::function<void(const MemberSum&, ProductStatistics&)>& take) const {
  statistics.products.resize(members_.size());
  for (size_t g = 0; g < members_.size(); ++g) {
    statistics.products[g].resize(members_[g].size());
    for (size_t m = 0; m < members_[g].size(); ++m)
      if (members_[g][m].absolute.defined()) take(members_[g][m], statistics.products[g][m]);
  }
}

void GradientCollector::FinishBatches(Statistics& statistics) const {
  for (const auto& [name, sum] : sums_) {
    ParameterStatistics& found = statistics.parameters[name];
    found.gradient = Mean(sum.gradient);
    found.abs_product = Mean(sum.abs_product);
  }
  const auto steps = static_cast<double>(steps_);
  ForEachSum(statistics, [&](const MemberSum& sum, ProductStatistics& found) {
    found.absolute = sum.absolute / steps;
    found.square = sum.square / steps;
  });
}

void GradientCollector::FinishSamples(Statistics& statistics) const {
  statistics.samples = steps_;
  for (const auto& [name, sum] : sums_) {
    ParameterStatistics& found = statistics.parameters[name];
    found.sample_abs_product = Mean(sum.abs_product);
    found.fisher = Mean(sum.fisher);
    if (sum.abs_expansion.defined()) found.sample_abs_expansion = Mean(sum.abs_expansion);
    if (!found.gradient.defined()) found.gradient = Mean(sum.gradient);
  }
  const auto steps = static_cast<double>(steps_);
  ForEachSum(statistics, [&](const MemberSum& sum, ProductStatistics& found) {
    found.sample_absolute = sum.absolute / steps;
    found.sample_square = sum.square / steps;
    found.block = block_;
    if (sum.block_square.defined()) found.block_square = sum.block_square / steps;
    if (sum.blocks.defined()) found.fisher_blocks = sum.blocks.div_(steps);
  });
}

}  // namespace espalier::internal
