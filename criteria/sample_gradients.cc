#include "criteria/sample_gradients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"

namespace espalier::internal {
namespace {

bool IsConstant(const Op& op, const char* argument) {
  const int index = op.ArgIndex(argument);
  return index >= 0 && std::holds_alternative<c10::IValue>(op.args[static_cast<size_t>(index)]);
}

/// A layer whose weight and bias have a share in closed form.
bool IsLayer(const Op& op, const Graph& graph) {
  static const std::map<std::string, std::vector<const char*>> kConstants = {
      {"aten::linear", {}},
      {"aten::conv2d", {"stride", "padding", "dilation", "groups"}},
      {"aten::batch_norm", {"eps"}},
      {"aten::layer_norm", {"eps"}},
      {"aten::rms_norm", {"eps"}}};
  const auto found = kConstants.find(op.target());
  if (found == kConstants.end()) return false;
  for (const char* argument : found->second)
    if (!IsConstant(op, argument)) return false;
  if (found->first != "aten::batch_norm") return true;
  const ValueId mean = op.ValueArg("running_mean");  // without: statistics of the batch
  return mean != kNoValue && !graph.values[static_cast<size_t>(mean)].target.empty();
}

/// A table whose every row counts alike.
bool IsPlainTable(const Op& op) {
  return op.target() == "aten::embedding" && IsConstant(op, "padding_idx") &&
         op.Constant("padding_idx").toInt() < 0 && IsConstant(op, "scale_grad_by_freq") &&
         !op.Constant("scale_grad_by_freq").toBool();
}

bool IsPlainSum(const Op& op) {
  return op.target() == "aten::add.Tensor" && IsConstant(op, "alpha") &&
         op.Constant("alpha").toScalar().equal(1);
}

/// One number stands for both axes.
std::vector<int64_t> Pair(const Op& op, const char* argument) {
  std::vector<int64_t> values = op.Constant(argument).toIntVector();
  if (values.size() == 1) values.push_back(values.front());
  return values;
}

/// [B, C, ...] -> [B, C]
Tensor SumPositions(const Tensor& values) {
  return values.reshape({values.size(0), values.size(1), -1}).sum(2);
}

std::vector<int64_t> WithSamples(int64_t samples, at::IntArrayRef sizes) {
  std::vector<int64_t> shape = {samples};
  shape.insert(shape.end(), sizes.begin(), sizes.end());
  return shape;
}

/// values [B, ...] summed over what a tensor of `sizes` was repeated along, axis 0 apart.
Tensor SumTo(const Tensor& values, at::IntArrayRef sizes) {
  const int64_t missing = values.dim() - static_cast<int64_t>(sizes.size());
  if (missing < 0 || (missing == 0 && sizes[0] != 1)) return {};  // the samples' axis is its own
  std::vector<int64_t> wanted(static_cast<size_t>(missing), 1);
  wanted.insert(wanted.end(), sizes.begin(), sizes.end());
  wanted.front() = values.size(0);
  return values.sum_to_size(wanted).reshape(WithSamples(values.size(0), sizes));
}

/// delta [B, O, H', W'], x [B, C, H, W] -> [B, O, C / groups, kH, kW].
Tensor ConvolutionWeight(const Op& op, const Tensor& x, const Tensor& delta,
                         at::IntArrayRef sizes) {
  const int64_t samples = x.size(0), groups = op.Constant("groups").toInt();
  const Tensor columns = at::im2col(x.contiguous(), sizes.slice(2), Pair(op, "dilation"),
                                    Pair(op, "padding"), Pair(op, "stride"));  // [B, C kH kW, L]
  const Tensor per_group = columns.reshape({samples * groups, -1, columns.size(-1)});
  const Tensor rows = delta.reshape({samples * groups, -1, columns.size(-1)});
  return at::bmm(rows, per_group.transpose(1, 2)).reshape(WithSamples(samples, sizes));
}

/// [B, C, ...] in eval mode, before scale and shift.
Tensor BatchNormalised(const Op& op, const Tensor& x, const ParameterStore& store,
                       const Graph& graph) {
  const auto stored = [&](const char* argument) {
    return store.Get(graph.values[static_cast<size_t>(op.ValueArg(argument))].target);
  };
  return at::batch_norm(x, {}, {}, stored("running_mean"), stored("running_var"),
                        /*training=*/false, 0, op.Constant("eps").toDouble(), false);
}

Batch Part(const Batch& batch, int64_t first, int64_t count) {
  Batch part;
  for (const Tensor& input : batch.inputs) part.inputs.push_back(input.narrow(0, first, count));
  for (const Tensor& target : batch.targets) part.targets.push_back(target.narrow(0, first, count));
  return part;
}

}  // namespace

Gradients TakeGradients(const std::map<std::string, Tensor>& leaves) {
  Gradients gradients;
  for (const auto& [name, leaf] : leaves) {
    const Tensor grad = leaf.grad();
    gradients[name] = (grad.defined() ? grad : at::zeros_like(leaf)).unsqueeze(0);
    Tensor(leaf).mutable_grad() = Tensor();
  }
  return gradients;
}

SampleGradients::SampleGradients(const Executor& executor, const ParameterStore& store,
                                 std::map<std::string, Tensor> parameters)
    : executor_(executor),
      graph_(executor.graph()),
      store_(store),
      parameters_(std::move(parameters)) {
  for (const Op& op : graph_.ops)
    for (const Use& use : UsesOf(op)) {
      const std::string& target = graph_.values[static_cast<size_t>(use.value)].target;
      if (target.empty() || !parameters_.contains(store.Canonical(target))) continue;
      Add(op, op.handle.schema().arguments()[static_cast<size_t>(use.arg)].name(),
          store.Canonical(target));
    }
}

void SampleGradients::Add(const Op& op, const std::string& argument, const std::string& name) {
  const std::string target = op.target();
  Site site{&op, argument, name, kNoValue, op.outputs.front()};
  if (IsLayer(op, graph_) && (argument == "weight" || argument == "bias"))
    site.input = op.ValueArg("input");
  else if (IsPlainTable(op))
    site.input = op.ValueArg("indices");
  else if (target == "aten::mul.Tensor")
    site.input = op.ValueArg(argument == "self" ? "other" : "self");
  else if (!(target == "aten::expand" && argument == "self") && !IsPlainSum(op))
    known_ = false;
  sites_.push_back(std::move(site));
}

int64_t SampleGradients::SamplesTogether() const {
  constexpr int64_t kMostElements = int64_t{1} << 26;  // 256 MiB of float32
  int64_t elements = 1;
  for (const auto& [name, parameter] : parameters_) elements += parameter.numel();
  return std::clamp<int64_t>(kMostElements / elements, 1, 64);
}

Tensor SampleGradients::Share(const Site& site, const Tensor& x, const Tensor& delta) const {
  const at::IntArrayRef sizes = parameters_.at(site.name).sizes();
  const std::string target = site.op->target();
  const bool weight = site.argument == "weight";
  if (target == "aten::linear") {
    const Tensor rows = delta.dim() == 2 ? delta.unsqueeze(1) : delta.flatten(1, -2);
    if (!weight) return rows.sum(1);
    const Tensor read = x.dim() == 2 ? x.unsqueeze(1) : x.flatten(1, -2);
    return at::bmm(rows.transpose(1, 2), read);  // [B, O, I]
  }
  if (target == "aten::conv2d")
    return weight ? ConvolutionWeight(*site.op, x, delta, sizes) : SumPositions(delta);
  if (target == "aten::batch_norm")
    return SumPositions(weight ? delta * BatchNormalised(*site.op, x, store_, graph_) : delta);
  if (target == "aten::layer_norm")
    return SumTo(weight
                     ? delta * at::layer_norm(x, sizes, {}, {}, site.op->Constant("eps").toDouble())
                     : delta,
                 sizes);
  if (target == "aten::rms_norm") {
    const c10::IValue& eps = site.op->Constant("eps");
    return SumTo(delta * at::rms_norm(x, sizes, {}, eps.toOptional<double>()), sizes);
  }
  if (target == "aten::embedding") {  // rows of all samples' tables, one below the other
    const Tensor table = at::arange(x.size(0), x.options()) * sizes[0];
    const Tensor rows = (x.flatten(1) + table.unsqueeze(1)).flatten();
    return at::zeros({x.size(0) * sizes[0], sizes[1]}, delta.options())
        .index_add(0, rows, delta.reshape({-1, sizes[1]}))
        .reshape(WithSamples(x.size(0), sizes));
  }
  return SumTo(target == "aten::mul.Tensor" ? delta * x : delta, sizes);
}

Gradients SampleGradients::Alone(const Binding& binding, const Batch& sample,
                                 const SampleLoss& loss) const {
  const at::AutoGradMode with_grad(true);
  loss(executor_.Run(binding, sample.inputs), sample).backward();
  return TakeGradients(parameters_);
}

bool SampleGradients::Agree(const Binding& binding, const Batch& two,
                            const SampleLoss& loss) const {
  constexpr double kTolerance = 1e-3;  // float32 sums in another order; a mix-up is of order 1
  const Gradients together = Together(binding, two, loss);
  if (together.empty()) return false;
  for (int64_t s = 0; s < two.size(); ++s) {
    const Gradients alone = Alone(binding, Part(two, s, 1), loss);
    const at::NoGradGuard no_grad;
    double largest = 0;  // of all parameters: gradients that are zero but for rounding may differ
    for (const auto& [name, gradient] : alone)
      largest = std::max(largest, gradient.abs().max().item<double>());
    for (const auto& [name, gradient] : alone) {
      const auto difference = (together.at(name)[s] - gradient[0]).abs().max().item<double>();
      const auto own = gradient.abs().max().item<double>();
      if (!(difference <= kTolerance * (own + kTolerance * largest))) return false;
    }
  }
  return true;
}

void SampleGradients::Each(const Binding& binding, const Batch& batch, const SampleLoss& loss,
                           const std::function<void(const Gradients&)>& take) {
  const int64_t most = SamplesTogether();
  if (!together_ && (!known_ || most == 1)) together_ = false;
  if (!together_ && batch.size() > 1) together_ = Agree(binding, Part(batch, 0, 2), loss);
  for (int64_t first = 0; first < batch.size();) {
    int64_t count = together_.value_or(false) ? std::min(most, batch.size() - first) : 1;
    Gradients gradients;
    if (count > 1) gradients = Together(binding, Part(batch, first, count), loss);
    if (gradients.empty()) {
      count = 1;
      gradients = Alone(binding, Part(batch, first, 1), loss);
    }
    const at::NoGradGuard no_grad;
    take(gradients);
    first += count;
  }
}

Gradients SampleGradients::Together(const Binding& binding, const Batch& batch,
                                    const SampleLoss& loss) const {
  const int64_t samples = batch.size();
  std::map<ValueId, Tensor> values, deltas;
  std::vector<Tap> taps;
  std::set<ValueId> inputs, outputs;
  for (const Site& site : sites_) {
    if (site.input != kNoValue) inputs.insert(site.input);
    outputs.insert(site.output);
  }
  for (const ValueId input : inputs)
    taps.push_back({input, [&values, input](const Tensor& t) { values[input] = t.detach(); }});
  for (const ValueId output : outputs)
    taps.push_back({output, [&deltas, output](const Tensor& t) {
                      // Of the value as it is here: operators may change it in place afterwards.
                      t.register_hook(
                          [&deltas, output](const Tensor& gradient) { deltas[output] = gradient; });
                    }});
  const at::AutoGradMode with_grad(true);
  const std::vector<Tensor> returned = executor_.Run(binding, batch.inputs, {.taps = taps});
  Tensor total;
  for (int64_t s = 0; s < samples; ++s) {
    std::vector<Tensor> own;
    for (const Tensor& output : returned) {
      if (output.dim() == 0 || output.size(0) != samples) return {};
      own.push_back(output.narrow(0, s, 1));
    }
    const Tensor value = loss(own, Part(batch, s, 1));
    total = total.defined() ? total + value : value;
  }
  total.backward();
  const at::NoGradGuard no_grad;
  Gradients gradients;
  for (const auto& [name, parameter] : parameters_) {
    Tensor(parameter).mutable_grad() = Tensor();
    gradients[name] = at::zeros(WithSamples(samples, parameter.sizes()), parameter.options());
  }
  for (const Site& site : sites_) {
    const auto delta = deltas.find(site.output);
    if (delta == deltas.end()) continue;  // nothing that counts reads it
    const Tensor x = site.input == kNoValue ? Tensor() : values[site.input];
    if (delta->second.size(0) != samples || (x.defined() && x.size(0) != samples)) return {};
    const Tensor share = Share(site, x, delta->second);
    if (!share.defined()) return {};
    gradients[site.name] += share;
  }
  return gradients;
}

}  // namespace espalier::internal
