#include "criteria/sample_gradients.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

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
      {"aten::conv1d", {"stride", "padding", "dilation", "groups"}},
      {"aten::conv2d", {"stride", "padding", "dilation", "groups"}},
      {"aten::conv3d", {"stride", "padding", "dilation", "groups"}},
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

/// delta [B, O, ...], x [B, C, ...] -> [B, O, C / groups, ...]. Sample by sample: faster on CPUs
/// than unfolded inputs or one group a sample.
Tensor ConvolutionWeight(const Op& op, const Tensor& x, const Tensor& delta, const Tensor& weight) {
  const auto axes = static_cast<size_t>(weight.dim()) - 2;
  const auto each = [&](const char* argument) {  // one number stands for all axes
    std::vector<int64_t> values = op.Constant(argument).toIntVector();
    if (values.size() == 1) values.resize(axes, values.front());
    return values;
  };
  const auto stride = each("stride"), padding = each("padding"), dilation = each("dilation");
  std::vector<Tensor> shares;
  for (int64_t s = 0; s < x.size(0); ++s)
    shares.push_back(std::get<1>(at::convolution_backward(
        delta.narrow(0, s, 1), x.narrow(0, s, 1), weight, /*bias_sizes=*/{}, stride, padding,
        dilation, /*transposed=*/false, /*output_padding=*/std::vector<int64_t>(axes, 0),
        op.Constant("groups").toInt(), /*output_mask=*/{false, true, false})));
  return at::stack(shares);
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

/// Gradients of a number by what lies at edges of its graph, and by nothing else: no time goes into
/// those of the parameters.
std::map<ValueId, Tensor> GradientsAt(const std::map<ValueId, torch::autograd::Edge>& edges,
                                      const Tensor& total) {
  torch::autograd::edge_list places;
  for (const auto& [value, edge] : edges) places.push_back(edge);
  const auto found = torch::autograd::Engine::get_default_engine().execute(
      {torch::autograd::impl::gradient_edge(total)}, {at::ones_like(total)}, /*keep_graph=*/false,
      /*create_graph=*/false, /*accumulate_grad=*/false, places);
  std::map<ValueId, Tensor> gradients;
  size_t next = 0;
  for (const auto& [value, edge] : edges) gradients[value] = found[next++];
  return gradients;
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
                                 std::map<std::string, Tensor> parameters, bool convolutions)
    : executor_(executor),
      graph_(executor.graph()),
      store_(store),
      parameters_(std::move(parameters)),
      convolutions_(convolutions) {
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
  if (target.starts_with("aten::conv") && !convolutions_) known_ = false;
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
  constexpr int64_t kMostElements = int64_t{1} << 24, kMany = 64;  // 64 MiB of float32
  int64_t elements = 1;
  for (const auto& [name, parameter] : parameters_) elements += parameter.numel();
  return std::clamp<int64_t>(kMostElements / elements, 1, kMany);
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
  if (target.starts_with("aten::conv"))
    return weight ? ConvolutionWeight(*site.op, x, delta, parameters_.at(site.name))
                  : SumPositions(delta);
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
    const Gradients alone = Alone(binding, two.Part(s, 1), loss);
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
  if (!together_ && batch.size() > 1) together_ = Agree(binding, batch.Part(0, 2), loss);
  for (int64_t first = 0; first < batch.size();) {
    int64_t count = together_.value_or(false) ? std::min(most, batch.size() - first) : 1;
    Gradients gradients;
    if (count > 1) gradients = Together(binding, batch.Part(first, count), loss);
    if (gradients.empty()) {
      count = 1;
      gradients = Alone(binding, batch.Part(first, 1), loss);
    }
    const at::NoGradGuard no_grad;
    take(gradients);
    first += count;
  }
}

Gradients SampleGradients::Together(const Binding& binding, const Batch& batch,
                                    const SampleLoss& loss) const {
  const int64_t samples = batch.size();
  std::map<ValueId, Tensor> values;
  std::map<ValueId, torch::autograd::Edge> edges;
  std::vector<Tap> taps;
  std::set<ValueId> inputs, outputs;
  for (const Site& site : sites_) {
    if (site.input != kNoValue) inputs.insert(site.input);
    outputs.insert(site.output);
  }
  for (const ValueId input : inputs)
    taps.push_back({input, [&values, input](const Tensor& t) { values[input] = t.detach(); }});
  // Edges of the values as they are here: operators may change them in place afterwards.
  for (const ValueId output : outputs)
    taps.push_back({output, [&edges, output](const Tensor& t) {
                      edges[output] = torch::autograd::impl::gradient_edge(t);
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
    const Tensor value = loss(own, batch.Part(s, 1));
    total = total.defined() ? total + value : value;
  }
  const std::map<ValueId, Tensor> deltas = GradientsAt(edges, total);
  const at::NoGradGuard no_grad;
  Gradients gradients;
  for (const Site& site : sites_) {
    const auto delta = deltas.find(site.output);
    if (!delta->second.defined()) continue;  // nothing that counts reads it
    const Tensor x = site.input == kNoValue ? Tensor() : values[site.input];
    if (delta->second.size(0) != samples || (x.defined() && x.size(0) != samples)) return {};
    const Tensor share = Share(site, x, delta->second);
    if (!share.defined()) return {};
    Tensor& sum = gradients[site.name];
    sum = sum.defined() ? sum + share : share;
  }
  for (const auto& [name, parameter] : parameters_)
    if (Tensor& sum = gradients[name]; !sum.defined())
      sum = at::zeros(WithSamples(samples, parameter.sizes()), parameter.options());
  return gradients;
}

}  // namespace espalier::internal
