#include "env/eval/evaluator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "env/base/error.h"
#include "env/eval/inference_rewrite.h"

namespace espalier {
namespace {

at::Device DeviceOf(const ParameterStore& store) {
  for (const std::string& name : store.CanonicalNames()) return store.Get(name).device();
  return at::kCPU;
}

Network Rewrite(const Network& network, at::ScalarType dtype, int64_t* fused) {
  InferenceRewrite rewrite(network);
  rewrite.FoldBatchNorm();
  rewrite.UseChannelsLast();
  if (DeviceOf(network.store).is_cpu()) rewrite.FuseConvolutions();
  if (dtype != at::kFloat) rewrite.CastTo(dtype);
  *fused = rewrite.fused_ops();
  return rewrite.Take();
}

}  // namespace

InferenceNetwork::Compiled::Compiled(Network rewritten)
    : network(std::move(rewritten)),
      executor(network.graph),
      binding(executor.Bind(network.store)) {}

InferenceNetwork::InferenceNetwork(const Network& network, at::ScalarType dtype)
    : dtype_(dtype),
      compiled_(std::make_shared<const Compiled>(Rewrite(network, dtype, &fused_))) {}

Tensor InferenceNetwork::Run(const Tensor& input) const {
  const at::NoGradGuard no_grad;
  Tensor images = input.dim() == 4 ? input.contiguous(at::MemoryFormat::ChannelsLast) : input;
  if (dtype_ != at::kFloat && images.is_floating_point()) images = images.to(dtype_);
  return compiled_->executor.Run(compiled_->binding, {images}).front();
}

Accuracy Evaluate(const Network& network, const Splits& splits, const ImageSet& images,
                  const EvalOptions& options) {
  ESPALIER_CHECK(options.batch_size > 0 && options.limit >= 0, "batch size ", options.batch_size,
                 ", limit ", options.limit);
  const int64_t count =
      options.limit > 0 ? std::min(options.limit, images.count()) : images.count();
  if (count == 0) throw Error(ErrorKind::kConfig, "there are no images to evaluate on");
  const at::NoGradGuard no_grad;
  const at::Device device = DeviceOf(network.store);

  std::optional<InferenceNetwork> fast;
  const Executor plain(network.graph);
  const Binding binding = plain.Bind(network.store);
  if (options.fast) fast.emplace(network, options.dtype);

  const auto start = std::chrono::steady_clock::now();
  Tensor correct = at::zeros({}, at::device(device).dtype(at::kLong));
  Tensor loss = at::zeros({}, at::device(device).dtype(at::kDouble));
  for (int64_t first = 0; first < count; first += options.batch_size) {
    const int64_t size = std::min(options.batch_size, count - first);
    Tensor pixels = images.images.narrow(0, first, size);
    if (options.fast) pixels = pixels.contiguous(at::MemoryFormat::ChannelsLast);
    const Tensor input = splits.Normalize(pixels).to(device);
    const Tensor logits = fast ? fast->Run(input) : plain.Run(binding, {input}).front();
    if (logits.dim() != 2 || logits.size(0) != size)
      throw Error(ErrorKind::kModel,
                  Str("network '", network.name, "' returns ", logits.sizes(), " for ", size,
                      " images, accuracy needs [batch, classes]"));
    const Tensor labels = images.labels.narrow(0, first, size).to(device);
    correct += logits.argmax(1).eq(labels).sum();
    loss += at::cross_entropy_loss(logits.to(at::kDouble), labels, {}, at::Reduction::Sum);
  }
  Accuracy accuracy;
  accuracy.images = count;
  const auto n = static_cast<double>(count);
  accuracy.value = static_cast<double>(correct.item<int64_t>()) / n;
  accuracy.standard_error = std::sqrt(accuracy.value * (1 - accuracy.value) / n);
  accuracy.loss = loss.item<double>() / n;
  accuracy.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return accuracy;
}

void RecalibrateBatchNorm(Network& network, const Splits& splits, int64_t batches,
                          int64_t batch_size, bool augment, uint64_t seed) {
  ESPALIER_CHECK(batches > 0, "batches = ", batches);
  const at::NoGradGuard no_grad;
  ParameterStore store = network.store;  // shares all tensors but the statistics
  std::vector<std::string> statistics;
  std::vector<int32_t> norms;
  for (size_t i = 0; i < network.graph.ops.size(); ++i) {
    const Op& op = network.graph.ops[i];
    if (op.target() != "aten::batch_norm") continue;
    norms.push_back(static_cast<int32_t>(i));
    for (const char* argument : {"running_mean", "running_var"}) {
      const ValueId id = op.ValueArg(argument);
      if (id == kNoValue) continue;
      const std::string& name = network.graph.values[static_cast<size_t>(id)].target;
      if (name.empty()) continue;
      store.Set(name, store.Get(name).clone());
      statistics.push_back(name);
    }
  }
  if (statistics.empty()) return;

  const at::Device device = DeviceOf(store);
  const Executor executor(network.graph);
  Loader loader(splits, splits.train(),
                {.batch_size = batch_size, .augment = augment, .seed = seed});
  for (int64_t batch = 0; batch < batches; ++batch) {
    // With momentum 1 / (i + 1) batch_norm's own update is the cumulative average.
    const double momentum = 1.0 / static_cast<double>(batch + 1);
    std::vector<ArgEdit> edits;
    for (const int32_t norm : norms) {
      const Op& op = network.graph.ops[static_cast<size_t>(norm)];
      edits.push_back({norm, op.ArgIndex("training"), c10::IValue(true)});
      edits.push_back({norm, op.ArgIndex("momentum"), c10::IValue(momentum)});
    }
    const Binding binding = executor.Bind(store, std::move(edits));
    const int64_t epoch = batch / loader.batches_per_epoch();
    const auto images = loader.Get(epoch, batch % loader.batches_per_epoch()).images;
    executor.Run(binding, {images.to(device)});
  }
  for (const std::string& name : statistics) network.store.Set(name, store.Get(name));
}

}  // namespace espalier
