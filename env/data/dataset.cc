#include "env/data/dataset.h"

#include <ATen/ATen.h>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier {
namespace {

Tensor Normalize(const Tensor& images, const std::vector<double>& mean,
                 const std::vector<double>& std) {
  const auto constant = [&](const std::vector<double>& values) {  // [1, C, 1, 1]
    return at::tensor(values, at::kFloat)
        .to(images.device())
        .view({1, static_cast<int64_t>(values.size()), 1, 1});
  };
  return images.to(at::kFloat).div_(255).sub_(constant(mean)).div_(constant(std));
}

std::vector<Tensor> Chosen(const std::vector<Tensor>& tensors, const Tensor& index) {
  std::vector<Tensor> chosen;
  for (const Tensor& tensor : tensors)
    chosen.push_back(tensor.index_select(0, index.to(tensor.device())));
  return chosen;
}

std::vector<Tensor> Moved(const std::vector<Tensor>& tensors, at::Device device) {
  std::vector<Tensor> moved;
  for (const Tensor& tensor : tensors) moved.push_back(tensor.to(device));
  return moved;
}

}  // namespace

Batch Batch::To(at::Device device) const { return {Moved(inputs, device), Moved(targets, device)}; }

Batch Batch::Part(int64_t first, int64_t count) const {
  Batch part;
  for (const Tensor& tensor : inputs) part.inputs.push_back(tensor.narrow(0, first, count));
  for (const Tensor& tensor : targets) part.targets.push_back(tensor.narrow(0, first, count));
  return part;
}

Batch Dataset::Range(int64_t first, int64_t size, bool channels_last) const {
  return Finish(Batch{inputs, targets}.Part(first, size), channels_last, nullptr);
}

Batch Dataset::Select(const Tensor& index, bool channels_last, Rng* augment) const {
  return Finish({espalier::Chosen(inputs, index), espalier::Chosen(targets, index)}, channels_last,
                augment);
}

Batch Dataset::Finish(Batch batch, bool channels_last, Rng* augment) const {
  constexpr int64_t kPadding = 4;
  for (Tensor& input : batch.inputs) {
    const bool image = !mean.empty() && input.dim() == 4 && input.scalar_type() == at::kByte;
    if (image && crop_flip && augment != nullptr)
      input = AugmentCropFlip(input, kPadding, *augment);
    input = input.contiguous(channels_last && input.dim() == 4 ? at::MemoryFormat::ChannelsLast
                                                               : at::MemoryFormat::Contiguous);
    if (image) input = Normalize(input, mean, std);
  }
  return batch;
}

Dataset Dataset::Part(int64_t first, int64_t count) const {
  Dataset part = *this;
  Batch tensors = Batch{inputs, targets}.Part(first, count);
  part.inputs = std::move(tensors.inputs);
  part.targets = std::move(tensors.targets);
  return part;
}

Dataset Dataset::Chosen(const Tensor& index) const {
  Dataset chosen = *this;
  chosen.inputs = espalier::Chosen(inputs, index);
  chosen.targets = espalier::Chosen(targets, index);
  return chosen;
}

Dataset Dataset::To(at::Device device) const {
  Dataset moved = *this;
  moved.inputs = Moved(inputs, device);
  moved.targets = Moved(targets, device);
  return moved;
}

std::string Dataset::Hash() const {
  std::string hashes;
  for (const std::vector<Tensor>* tensors : {&inputs, &targets})
    for (const Tensor& tensor : *tensors) {
      const Tensor bytes = tensor.cpu().contiguous();
      hashes += Sha256Hex({static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()});
    }
  return hashes;
}

}  // namespace espalier
