#include "criteria/value_collectors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "criteria/input_columns.h"
#include "criteria/value_basis.h"
#include "env/base/error.h"

namespace espalier::internal {

ReadCollector::ReadCollector(const Space& space, const Needs& needs, const Calibration& calibration)
    : space_(space),
      moments_(needs.contains(Need::kForward)),
      ranks_(needs.contains(Need::kRank)),
      max_rank_samples_(calibration.max_rank_samples) {
  if (!moments_ && !ranks_) return;
  for (size_t i = 0; i < space.reads().size(); ++i) {
    const ReadPoint& read = space.reads()[i];
    const Op& op = space.network().graph.ops[static_cast<size_t>(read.op)];
    const Arg& arg = op.args[static_cast<size_t>(read.arg)];
    const ValueId value = std::holds_alternative<ValueId>(arg)
                              ? std::get<ValueId>(arg)
                              : std::get<ValueList>(arg).ids[static_cast<size_t>(read.element)];
    if (!space.network().graph.values[static_cast<size_t>(value)].target.empty())
      continue;  // weights that are read as units (recurrent layers): no activation
    Place place{.read = i};
    place.view = FindView({.value = value, .axis = read.axis, .shape = read.shape});
    if (moments_) place.partner = FindPartner(read);
    places_.push_back(place);
  }
}

size_t ReadCollector::FindView(View wanted) {
  for (size_t i = 0; i < views_.size(); ++i)
    if (views_[i].value == wanted.value && views_[i].axis == wanted.axis &&
        views_[i].shape == wanted.shape && views_[i].transposed == wanted.transposed)
      return i;
  views_.push_back(std::move(wanted));
  return views_.size() - 1;
}

/// The keys that a read of queries meets: their view in the order of the queries' coordinates.
int64_t ReadCollector::FindPartner(const ReadPoint& read) {
  const Graph& graph = space_.network().graph;
  const Op& op = graph.ops[static_cast<size_t>(read.op)];
  const std::string& name = op.handle.operator_name().name;
  ValueId key = kNoValue;
  bool transposed = false;
  if (name == "aten::scaled_dot_product_attention" && read.arg == op.ArgIndex("query")) {
    key = op.ValueArg("key");
  } else if ((name == "aten::matmul" || name == "aten::bmm") && read.arg == 0) {
    key = op.ValueArg(name == "aten::bmm" ? "mat2" : "other");
    transposed = true;
  } else if (name == "aten::baddbmm" && read.arg == op.ArgIndex("batch1")) {
    key = op.ValueArg("batch2");
    transposed = true;
  }
  if (key == kNoValue || !graph.values[static_cast<size_t>(key)].target.empty()) return -1;
  return static_cast<int64_t>(
      FindView({.value = key, .axis = read.axis, .shape = read.shape, .transposed = transposed}));
}

void ReadCollector::AddTaps(std::vector<Tap>& taps) {
  for (View& view : views_)
    taps.push_back({view.value, [this, &view](const Tensor& value) { Record(view, value); }});
}

/// Mean over everything but the coordinates: [coordinates] float64.
Tensor ReadCollector::Coordinates(const View& view, const Tensor& value, bool mean) const {
  Tensor split = value;
  std::vector<int64_t> others;  // axes of split
  int64_t place = 0;
  for (int64_t axis = 0; axis < value.dim(); ++axis, ++place) {
    const int64_t pattern = view.axis >= 0 ? 1 : view.shape[static_cast<size_t>(axis)];
    if (axis != view.axis && pattern == 1) others.push_back(place);
    if (pattern == 1 || value.size(axis) <= pattern) continue;  // fewer: keys that heads share
    split = split.unflatten(place, {-1, pattern});  // a batch merged in front of the coordinates
    others.push_back(place++);
  }
  if (others.empty()) return split.to(at::kDouble).reshape({-1});
  return (mean ? split.mean(others, false, at::kDouble) : split.sum(others, false, at::kDouble))
      .reshape({-1});
}

void ReadCollector::Record(View& view, const Tensor& given) const {
  const at::NoGradGuard no_grad;
  Tensor value = given.detach();
  if (!value.is_floating_point()) return;
  if (view.transposed) value = value.transpose(-1, -2);
  const auto add = [](Tensor& sum, const Tensor& part) {
    const Tensor there = part.to(at::kCPU);
    sum = sum.defined() ? sum + there : there;
  };
  ++view.batches;
  if (moments_) {
    add(view.absolute, Coordinates(view, value.abs(), true));
    add(view.square, Coordinates(view, value.square(), true));
  }
  if (!ranks_) return;
  const bool by_sample = view.axis > 0 || (view.axis < 0 && view.shape.front() == 1);
  const Tensor few =
      by_sample ? value.narrow(0, 0, std::min(value.size(0), max_rank_samples_)) : value;
  if (value.dim() == 4 && view.axis == 1)
    add(view.rank, at::linalg_matrix_rank(few.contiguous()).mean(0, false, at::kDouble));  // [C]
  else
    add(view.rank, Coordinates(view, few.ne(0).to(at::kDouble), true));
}

void ReadCollector::Finish(Statistics& statistics) const {
  for (const Place& place : places_) {
    const ReadPoint& read = space_.reads()[place.read];
    const View& view = views_[place.view];
    if (view.batches == 0) continue;
    const auto batches = static_cast<double>(view.batches);
    ReadStatistics found{.op = read.op, .arg = read.arg, .unit = read.unit};
    const auto coordinates = static_cast<int64_t>(read.unit.size());
    if (view.absolute.defined()) {
      found.mean_abs = view.absolute / batches;
      found.energy = view.square / batches;
      ESPALIER_CHECK(found.energy.numel() == coordinates, found.energy.sizes(), " moments for ",
                     coordinates, " coordinates");
    }
    if (view.rank.defined()) found.rank = view.rank / batches;
    if (place.partner >= 0) {
      const View& partner = views_[static_cast<size_t>(place.partner)];
      Tensor energy = partner.square;
      // Query heads that share a key head stand beside each other.
      if (energy.defined() && energy.numel() < coordinates && coordinates % energy.numel() == 0 &&
          read.axis < 0) {
        const int64_t dims = read.shape.back(), heads = energy.numel() / dims;
        energy = energy.view({heads, dims})
                     .repeat_interleave(coordinates / energy.numel(), 0)
                     .reshape({-1});
      }
      if (energy.defined() && energy.numel() == coordinates)
        found.partner_energy = energy / static_cast<double>(partner.batches);
    }
    statistics.reads.push_back(std::move(found));
  }
}

GramCollector::GramCollector(const Space& space, const ParameterStore& store, const Needs& needs,
                             const Calibration& calibration)
    : space_(space), store_(store) {
  std::map<std::string, bool> wanted;  // the matrix, not only its diagonal
  if (needs.contains(Need::kGram) || needs.contains(Need::kGramDiagonal))
    for (const Group& group : space.groups())
      for (const Member& member : group.members)
        if (member.role == MemberRole::kConsumer)
          wanted[member.parameter] = needs.contains(Need::kGram);
  if (needs.contains(Need::kValueGram))
    for (const ValueLayer& layer : FindValueLayers(space, store)) wanted[layer.producer] = true;
  const Network& network = space.network();
  for (size_t i = 0; i < network.graph.ops.size(); ++i) {
    const Op& op = network.graph.ops[i];
    if (!NotAMatrix(network, op).empty()) continue;
    const ValueId weight = op.ValueArg("weight");
    const std::string& name =
        store.Canonical(network.graph.values[static_cast<size_t>(weight)].target);
    const auto found = wanted.find(name);
    if (found == wanted.end()) continue;
    const Tensor& matrix = store.Get(name);
    layers_.push_back({.op = static_cast<int32_t>(i),
                       .weight = name,
                       .columns = matrix.numel() / matrix.size(0),
                       .whole = found->second});
  }
  std::vector<Layer*> narrow_first;
  for (Layer& layer : layers_) narrow_first.push_back(&layer);
  std::stable_sort(narrow_first.begin(), narrow_first.end(),
                   [](const Layer* a, const Layer* b) { return a->columns < b->columns; });
  int64_t bytes = 0;
  for (Layer* layer : narrow_first) {
    bytes += layer->columns * layer->columns * static_cast<int64_t>(sizeof(double));
    layer->whole = layer->whole && layer->columns <= calibration.max_gram &&
                   bytes <= calibration.max_gram_bytes;
  }
}

void GramCollector::AddTaps(std::vector<Tap>& taps) {
  for (Layer& layer : layers_) {
    const Op& op = space_.network().graph.ops[static_cast<size_t>(layer.op)];
    taps.push_back(
        {op.ValueArg("input"), [this, &layer](const Tensor& value) { Record(layer, value); }});
  }
}

void GramCollector::Record(Layer& layer, const Tensor& given) const {
  const at::NoGradGuard no_grad;
  constexpr int64_t kChunk = 32;  // samples whose patches are in memory at once
  const Op& op = space_.network().graph.ops[static_cast<size_t>(layer.op)];
  const Tensor& weight = store_.Get(layer.weight);
  const Tensor input = given.detach();
  const auto add = [](Tensor& sum, const Tensor& part) {
    const Tensor exact = part.to(at::kCPU, at::kDouble);
    sum = sum.defined() ? sum + exact : exact;
  };
  for (int64_t first = 0; first < input.size(0); first += kChunk) {
    const int64_t count = std::min(kChunk, input.size(0) - first);
    const Tensor x = InputColumns(op, weight, input.narrow(0, first, count));  // [K, positions]
    if (layer.whole)
      add(layer.gram, at::matmul(x, x.t()));
    else
      add(layer.diagonal, x.square().sum(1, false, at::kDouble));
    add(layer.mean, x.sum(1, false, at::kDouble));
    layer.positions += static_cast<double>(x.size(1));
  }
}

void GramCollector::Finish(Statistics& statistics) const {
  std::map<std::string, double> positions;
  for (const Layer& layer : layers_) {  // layers that share a weight add up
    GramStatistics& sum = statistics.grams[layer.weight];
    const auto add = [](Tensor& to, const Tensor& part) {
      if (part.defined()) to = to.defined() ? to + part : part;
    };
    add(sum.gram, layer.gram);
    add(sum.diagonal, layer.diagonal);
    add(sum.mean, layer.mean);
    positions[layer.weight] += layer.positions;
  }
  for (auto& [weight, found] : statistics.grams) {
    const double count = std::max(1.0, positions[weight]);
    for (Tensor* sum : {&found.gram, &found.diagonal, &found.mean})
      if (sum->defined()) *sum = *sum / count;
    if (found.gram.defined()) found.diagonal = found.gram.diagonal().clone();
  }
}

}  // namespace espalier::internal
