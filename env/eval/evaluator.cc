#include "env/eval/evaluator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "env/base/clock.h"
#include "env/base/error.h"
#include "env/eval/inference_rewrite.h"
#include "env/graph/batch_size.h"

namespace espalier {
namespace {

at::Device DeviceOf(const ParameterStore& store) {
  for (const std::string& name : store.CanonicalNames()) return store.Get(name).device();
  return at::kCPU;
}

Network Rewrite(const Network& network, at::ScalarType dtype, int64_t* fused) {
  InferenceRewrite rewrite(network);
  rewrite.ApplyAll(dtype);
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

std::vector<Tensor> InferenceNetwork::Run(const std::vector<Tensor>& inputs) const {
  const at::NoGradGuard no_grad;
  return compiled_->executor.Run(compiled_->binding, PrepareInputs(inputs, dtype_));
}

int64_t InferenceBatch(const Network& network, int64_t most, at::ScalarType dtype,
                       at::Device device) {
  constexpr int64_t kLeast = 64, kCacheBytes = int64_t{8} << 20;
  const int64_t fits = FittingBatch(network, most);
  if (!device.is_cpu() || dtype != at::kFloat || fits <= kLeast) return fits;
  return std::max(kLeast, FittingBatch(network, fits, kCacheBytes));
}

Score Evaluate(const Network& network, const Dataset& samples, const Task& task,
               const EvalOptions& options, Tensor* statistics_out) {
  ESPALIER_CHECK(options.batch_size > 0 && options.limit >= 0, "batch size ", options.batch_size,
                 ", limit ", options.limit);
  const int64_t count =
      options.limit > 0 ? std::min(options.limit, samples.count()) : samples.count();
  if (count == 0) throw Error(ErrorKind::kConfig, "there are no samples to evaluate on");
  const at::NoGradGuard no_grad;
  const at::Device device = DeviceOf(network.store);
  const Objective objective = task.MakeObjective();
  const auto metric = task.MakeMetric();
  const UncutOutputs uncut(task, task.compares(), device);

  std::optional<InferenceNetwork> fast;
  const Executor plain(network.graph);
  const Binding binding = plain.Bind(network.store);
  if (options.fast) fast.emplace(network, options.dtype);

  const int64_t batch_size =
      options.fast ? InferenceBatch(network, options.batch_size, options.dtype, device)
                   : FittingBatch(network, options.batch_size);
  const Timer timer;
  Tensor loss = at::zeros({}, at::device(device).dtype(at::kDouble));
  std::vector<Tensor> statistics;
  for (int64_t first = 0; first < count; first += batch_size) {
    const int64_t size = std::min(batch_size, count - first);
    Outcome outcome{samples.Range(first, size, options.fast).To(device), {}};
    const auto& inputs = outcome.batch.inputs;
    outcome.outputs = fast ? fast->Run(inputs) : plain.Run(binding, inputs);
    outcome.uncut = uncut.Run(inputs);
    for (std::vector<Tensor>* tensors : {&outcome.outputs, &outcome.uncut})
      for (Tensor& tensor : *tensors)
        if (tensor.is_floating_point()) tensor = tensor.to(at::kDouble);
    statistics.push_back(metric->Statistics(outcome, task.metric_options));
    loss += objective.Mean(outcome) * size;
  }
  const Tensor all = at::cat(statistics);  // [N, K]
  if (statistics_out != nullptr) *statistics_out = all;
  Score score = Summarize(task.metric, *metric, all);
  score.loss = loss.item<double>() / static_cast<double>(count);
  score.seconds = timer.Seconds();
  return score;
}

void RecalibrateBatchNorm(Network& network, Loader& loader, int64_t batches) {
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
    executor.Run(binding, loader.Get(batch).To(device).inputs);
  }
  for (const std::string& name : statistics) network.store.Set(name, store.Get(name));
}

}  // namespace espalier
