#include "env/eval/masked_network.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr size_t kMostForwards = 2;  // whole batches and the last, smaller one

/// 1 where an axis is kept, else 0: [lines, size], where every row of the tensor has a line of its
/// own when blocks of rows keep different indices.
void WriteMask(const std::vector<std::vector<int64_t>>& kept, int64_t lines, int64_t size,
               float* mask) {
  const auto blocks = static_cast<int64_t>(kept.size());
  ESPALIER_CHECK(lines % blocks == 0, blocks, " blocks of ", lines, " lines");
  std::fill_n(mask, lines * size, 0.0F);
  for (int64_t line = 0; line < lines; ++line)
    for (const int64_t index : kept[static_cast<size_t>(line * blocks / lines)])
      mask[line * size + index] = 1;
}

[[noreturn]] void Refuse(const std::string& why) {
  throw Error(ErrorKind::kConfig, Str("candidates cannot be evaluated by masks: ", why),
              "set masked = false");
}

}  // namespace

MaskedNetwork::MaskedNetwork(const CandidateNetwork& candidates) : candidates_(candidates) {
  const Space& space = candidates.space();
  if (!space.norms().empty()) {
    const Op& op = space.network().graph.ops[static_cast<size_t>(space.norms().front().op)];
    Refuse(Str(op.target(), " at '", op.module_path, "' takes a statistic over units that can go"));
  }
  if (!space.branches().empty()) Refuse("whole branches can go");

  std::map<std::pair<std::string, int64_t>, int64_t> blocks;  // by source and axis
  for (const Group& group : space.groups())
    for (const Member& member : group.members) {
      int64_t& most = blocks[{member.parameter, member.axis}];
      most = std::max(most, member.blocks);
    }
  const Network& network = candidates.network();
  std::set<std::string> seen;
  int64_t total = 0;
  for (const Value& value : network.graph.values) {
    if (value.target.empty() || !seen.insert(network.store.Canonical(value.target)).second)
      continue;
    const std::string& name = network.store.Canonical(value.target);
    const Tensor& tensor = network.store.Get(name);
    device_ = tensor.device();
    if (!tensor.is_floating_point()) continue;  // indices: all they name is still there
    for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
      const auto found = blocks.find({candidates.SourceOf(name), axis});
      if (found == blocks.end()) continue;
      std::vector<int64_t> shape(static_cast<size_t>(tensor.dim()), 1);
      shape[static_cast<size_t>(axis)] = tensor.size(axis);
      if (axis > 0 && found->second > 1) shape[0] = tensor.size(0);
      masks_.push_back({name, axis, total, shape, {}});
      total += c10::multiply_integers(shape);
    }
  }
  all_ = at::ones({total}, at::device(device_).dtype(at::kFloat));
  for (Mask& mask : masks_)
    mask.view = all_.narrow(0, mask.first, c10::multiply_integers(mask.shape)).view(mask.shape);
}

void MaskedNetwork::SetMasks(const Selection& selection) {
  const Plan plan = MakePlan(candidates_.space(), selection);
  const Tensor masks = at::ones({all_.numel()}, at::kFloat);
  std::map<std::string, CandidateNetwork::Kept> kept;
  for (const Mask& mask : masks_) {
    const auto [found, made] = kept.try_emplace(mask.parameter);
    if (made) found->second = candidates_.KeptOf(mask.parameter, plan);
    const int64_t size = mask.shape[static_cast<size_t>(mask.axis)];
    const int64_t lines = mask.view.numel() / size;
    float* const place = masks.mutable_data_ptr<float>() + mask.first;
    for (const KeptAxis& axis : found->second.axes)
      if (axis.axis == mask.axis) WriteMask(axis.kept, lines, size, place);
    if (mask.axis == 0 && !found->second.rows.empty())
      WriteMask({found->second.rows}, lines, size, place);
  }
  all_.copy_(masks);
}

std::vector<Tensor> MaskedNetwork::RunMasked(const std::vector<Tensor>& inputs) const {
  ParameterStore store = candidates_.network().store;
  for (const Mask& mask : masks_) {
    const Tensor& tensor = store.Get(mask.parameter);
    store.Set(mask.parameter, tensor * mask.view.to(tensor.scalar_type()));
  }
  const Executor& executor = candidates_.executor();
  return executor.Run(executor.Bind(store), inputs);
}

MaskedNetwork::Forward& MaskedNetwork::ForwardOf(const std::vector<Tensor>& inputs) {
  std::vector<std::vector<int64_t>> sizes;
  for (const Tensor& input : inputs) sizes.push_back(input.sizes().vec());
  if (const auto known = forwards_.find(sizes); known != forwards_.end()) return known->second;
  if (forwards_.size() >= kMostForwards) forwards_.clear();
  Forward forward;
  for (const Tensor& input : inputs) forward.inputs.push_back(input.clone());
  forward.recording = Record(device_, [this, own = forward.inputs] { return RunMasked(own); });
  return forwards_.emplace(std::move(sizes), std::move(forward)).first->second;
}

const std::vector<Tensor>& MaskedNetwork::Run(const Selection& selection,
                                              const std::vector<Tensor>& inputs) {
  const at::NoGradGuard no_grad;
  Forward& forward = ForwardOf(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) forward.inputs[i].copy_(inputs[i]);
  SetMasks(selection);
  forward.recording->Replay();
  if (!checked_) Check(selection, inputs, forward.recording->results());
  return forward.recording->results();
}

void MaskedNetwork::Check(const Selection& selection, const std::vector<Tensor>& inputs,
                          const std::vector<Tensor>& outputs) {
  constexpr double kRounding = 0.05;  // of bfloat16; what does not fit is off by more
  const auto bound = candidates_.Bind(selection);
  const std::vector<Tensor> cut = candidates_.executor().Run(bound.binding, inputs);
  for (size_t i = 0; i < cut.size(); ++i) {
    if (!cut[i].is_floating_point()) continue;
    const double error = (outputs[i] - cut[i]).abs().max().to(at::kDouble).item<double>();
    const double largest = cut[i].abs().max().to(at::kDouble).item<double>();
    if (error > kRounding * largest)
      Refuse(Str("output ", i, " is off by ", error, " of ", largest, " from that of the cut"));
  }
  checked_ = true;
}

}  // namespace espalier
