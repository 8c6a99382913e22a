#include "env/graph/sample_inputs.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/base/rng.h"

namespace espalier {
namespace {

/// Sizes of one input when the batch symbol has this value.
std::vector<int64_t> SizesAt(const Graph& graph, const InputSpec& spec, int64_t batch) {
  std::vector<int64_t> sizes = spec.sizes;
  if (spec.size_expressions.empty()) {
    if (spec.dynamic_batch && !sizes.empty()) sizes[0] = batch;
    return sizes;
  }
  SymbolValues values = graph.symbols;
  if (!graph.batch_symbol.empty()) values[graph.batch_symbol] = batch;
  for (size_t axis = 0; axis < sizes.size(); ++axis)
    if (!spec.size_expressions[axis].empty())
      if (const auto size = Evaluate(spec.size_expressions[axis], values)) sizes[axis] = *size;
  return sizes;
}

/// The sample repeated, or cut short, along every axis whose size differs.
Tensor Fitted(Tensor sample, const std::vector<int64_t>& sizes) {
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto axis = static_cast<int64_t>(i);
    const int64_t have = sample.size(axis);
    if (have == sizes[i]) continue;
    if (have == 0) return at::zeros(sizes, sample.options());
    sample = sample.index_select(axis, at::arange(sizes[i], at::kLong).remainder(have));
  }
  return sample.clone();  // callers overwrite what they get
}

/// Operators that hand on the numbers of their first argument.
bool KeepsNumbers(const std::string& name) {
  static const std::set<std::string> kNames = {
      "aten::view",        "aten::reshape", "aten::flatten", "aten::unflatten",
      "aten::contiguous",  "aten::clone",   "aten::to",      "aten::_to_copy",
      "aten::type_as",     "aten::slice",   "aten::select",  "aten::squeeze",
      "aten::unsqueeze",   "aten::expand",  "aten::permute", "aten::transpose",
      "aten::detach",      "aten::alias",   "aten::repeat",  "aten::narrow",
      "aten::split",       "aten::chunk",   "aten::unbind",  "aten::t",
      "aten::roll",        "aten::flip",    "aten::movedim", "aten::clamp_min",
      "aten::_unsafe_view"};
  return kNames.contains(name);
}

}  // namespace

std::vector<int64_t> IndexBounds(const Network& network) {
  const Graph& graph = network.graph;
  std::vector<int32_t> source(graph.values.size(), -1);  // value -> input whose numbers it holds
  std::vector<int64_t> bounds(graph.inputs.size(), 0);
  for (size_t i = 0; i < graph.inputs.size(); ++i)
    if (at::isIntegralType(graph.inputs[i].dtype, /*includeBool=*/false))
      source[static_cast<size_t>(graph.inputs[i].value)] = static_cast<int32_t>(i);
  const auto limit = [&](ValueId index, ValueId table, int64_t axis) {
    if (index == kNoValue || table == kNoValue) return;
    const int32_t input = source[static_cast<size_t>(index)];
    const std::string& target = graph.values[static_cast<size_t>(table)].target;
    if (input < 0 || target.empty()) return;
    const Tensor& rows = network.store.Get(target);
    if (axis < 0) axis += rows.dim();
    if (axis < 0 || axis >= rows.dim()) return;
    int64_t& bound = bounds[static_cast<size_t>(input)];
    bound = bound == 0 ? rows.size(axis) : std::min(bound, rows.size(axis));
  };
  for (const Op& op : graph.ops) {
    const std::string& name = op.handle.operator_name().name;
    if (name == "aten::embedding" || name == "aten::embedding_bag") {
      limit(op.ValueArg("indices"), op.ValueArg("weight"), 0);
    } else if (name == "aten::index_select" || name == "aten::gather") {
      limit(op.ValueArg("index"), op.ValueArg("self"), op.Constant("dim").toInt());
    } else if (name == "aten::index") {
      if (const auto* list = std::get_if<ValueList>(&op.args[1]))
        for (size_t axis = 0; axis < list->ids.size(); ++axis)
          limit(list->ids[axis], op.ValueArg("self"), static_cast<int64_t>(axis));
    } else if (KeepsNumbers(name) && !op.args.empty()) {
      const auto* id = std::get_if<ValueId>(&op.args[0]);
      if (id && *id != kNoValue)
        for (const ValueId output : op.outputs)
          source[static_cast<size_t>(output)] = source[static_cast<size_t>(*id)];
    }
  }
  return bounds;
}

std::vector<Tensor> SampleInputs(const Network& network, int64_t batch) {
  const Graph& graph = network.graph;
  const std::vector<int64_t> bounds = IndexBounds(network);
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    const InputSpec& spec = graph.inputs[i];
    const std::vector<int64_t> sizes = SizesAt(graph, spec, batch);
    const at::TensorOptions options(spec.dtype);
    if (spec.sample.defined()) {
      inputs.push_back(Fitted(spec.sample, sizes));
    } else if (bounds[i] > 1) {
      // Scattered over the table by a stride that is coprime to most sizes.
      const Tensor zeros = at::zeros(sizes, at::kLong);
      inputs.push_back(
          at::arange(zeros.numel()).mul(7919).remainder(bounds[i]).view(sizes).to(spec.dtype));
    } else {
      inputs.push_back(at::zeros(sizes, options));
    }
  }
  return inputs;
}

std::vector<Tensor> RandomInputs(const Network& network, int64_t batch, uint64_t seed) {
  at::Generator generator =
      at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed, 0, Str("inputs ", batch)));
  std::vector<Tensor> inputs = SampleInputs(network, batch);
  for (Tensor& input : inputs)
    if (input.is_floating_point())
      input = at::randn(input.sizes(), generator, at::TensorOptions(at::kFloat))
                  .to(input.scalar_type());
  return inputs;
}

void SetSampleInputs(Network& network, const std::vector<std::pair<std::string, Tensor>>& named) {
  Graph& graph = network.graph;
  std::vector<std::string> known;
  for (const InputSpec& spec : graph.inputs)
    known.push_back(graph.values[static_cast<size_t>(spec.value)].name);
  for (const auto& [name, tensor] : named) {
    size_t place = 0;
    while (place < known.size() && name != known[place] && name != Str("in", place)) ++place;
    if (place == known.size()) {
      const std::string near = NearestName(name, known);
      std::string all;
      for (const std::string& input : known) all += (all.empty() ? "" : ", ") + input;
      throw Error(
          ErrorKind::kModel, Str("the network has no input '", name, "'"),
          Str(near.empty() ? "" : Str("did you mean '", near, "'? "), "its inputs are ", all));
    }
    InputSpec& spec = graph.inputs[place];
    const std::string where = Str("sample of input '", known[place], "': ");
    if (tensor.scalar_type() != spec.dtype)
      throw Error(ErrorKind::kModel, Str(where, "it is ", c10::toString(tensor.scalar_type()),
                                         ", the network takes ", c10::toString(spec.dtype)));
    if (tensor.dim() != static_cast<int64_t>(spec.sizes.size()))
      throw Error(ErrorKind::kModel, Str(where, "its sizes are ", tensor.sizes(),
                                         ", the network takes ", at::IntArrayRef(spec.sizes)));
    for (size_t axis = 0; axis < spec.sizes.size(); ++axis) {
      const int64_t size = tensor.size(static_cast<int64_t>(axis));
      const bool open = axis < spec.size_expressions.size() && !spec.size_expressions[axis].empty();
      const bool batch = spec.size_expressions.empty() && spec.dynamic_batch && axis == 0;
      if (!open && !batch && size != spec.sizes[axis])
        throw Error(ErrorKind::kModel, Str(where, "axis ", axis, " is ", size, ", it is fixed at ",
                                           spec.sizes[axis], " in the archive"));
      if (!open) continue;
      const auto symbols = SymbolsIn(spec.size_expressions[axis]);
      const bool plain =
          symbols.size() == 1 && Evaluate(spec.size_expressions[axis], {{symbols.front(), 1}}) == 1;
      if (plain && symbols.front() != graph.batch_symbol) graph.symbols[symbols.front()] = size;
    }
    spec.sample = tensor.detach().clone();
  }
}

std::vector<ValueMeta> InferMeta(const Network& network, int64_t batch) {
  const at::NoGradGuard no_grad;
  std::vector<ValueMeta> meta(network.graph.values.size());
  std::vector<Tap> taps;
  for (size_t id = 0; id < meta.size(); ++id)
    taps.push_back({static_cast<ValueId>(id), [&meta, id](const Tensor& tensor) {
                      meta[id] = {tensor.sizes().vec(), tensor.scalar_type()};
                      const bool is_number = tensor.dim() == 0 && tensor.scalar_type() == at::kLong;
                      if (is_number) meta[id].scalar = tensor.item<int64_t>();
                    }});
  std::vector<Tensor> inputs = SampleInputs(network, batch);
  const std::vector<std::string> stored = network.store.CanonicalNames();
  if (!stored.empty())
    for (Tensor& input : inputs) input = input.to(network.store.Get(stored.front()).device());
  const Executor executor(network.graph);
  executor.Run(executor.Bind(network.store), inputs, {.taps = taps, .shapes_only = true});
  return meta;
}

}  // namespace espalier
