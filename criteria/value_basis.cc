#include "criteria/value_basis.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "criteria/consumer_columns.h"
#include "criteria/input_columns.h"
#include "criteria/modular.h"
#include "criteria/second_order.h"
#include "env/base/error.h"
#include "env/graph/executor.h"

namespace espalier {
namespace {

constexpr double kDamping = 1e-6;

/// The op that makes the values another reads: back through whatever moves them, and from an
/// attention's sum to what it sums. -1: none.
int32_t ProducerOf(const Network& network, const Op& reader) {
  const Graph& graph = network.graph;
  ValueId value = reader.ValueArg("input");
  for (size_t left = graph.ops.size(); left > 0 && value != kNoValue; --left) {
    const int32_t index = graph.values[static_cast<size_t>(value)].producer;
    if (index < 0) return -1;
    const Op& op = graph.ops[static_cast<size_t>(index)];
    if (NotAMatrix(network, op).empty()) return index;
    value = kNoValue;
    for (const char* argument : {"value", "other", "mat2", "batch2", "self", "input"})
      if (value == kNoValue && op.ArgIndex(argument) >= 0) value = op.ValueArg(argument);
  }
  return -1;
}

/// The units' rows, one of several that each has, or nothing.
std::vector<int64_t> RowsOf(const Member& member, const std::vector<int64_t>& units, int64_t way) {
  std::vector<int64_t> rows;
  if (member.axis != 0 || member.blocks != 1) return rows;
  if (units.front() < member.first_unit || units.back() >= member.first_unit + member.units())
    return rows;
  for (const int64_t unit : units)
    rows.push_back(
        member.indices[static_cast<size_t>((unit - member.first_unit) * member.per_unit + way)]);
  return rows;
}

/// [times][units] of what ColumnsByUnit gives; nothing where units have different numbers.
std::vector<std::vector<int64_t>> ColumnsOf(const std::vector<std::vector<int64_t>>& by_unit,
                                            const std::vector<int64_t>& units) {
  std::vector<std::vector<int64_t>> columns(by_unit[static_cast<size_t>(units.front())].size());
  for (const int64_t unit : units) {
    const std::vector<int64_t>& own = by_unit[static_cast<size_t>(unit)];
    if (own.size() != columns.size()) return {};
    for (size_t time = 0; time < own.size(); ++time) columns[time].push_back(own[time]);
  }
  return columns;
}

/// The ops that compute with each weight, by canonical name.
std::map<std::string, std::vector<int32_t>> OpsByWeight(const Network& network,
                                                        const ParameterStore& store) {
  std::map<std::string, std::vector<int32_t>> ops;
  for (size_t i = 0; i < network.graph.ops.size(); ++i) {
    const Op& op = network.graph.ops[i];
    if (!NotAMatrix(network, op).empty()) continue;
    const ValueId weight = op.ValueArg("weight");
    ops[store.Canonical(network.graph.values[static_cast<size_t>(weight)].target)].push_back(
        static_cast<int32_t>(i));
  }
  return ops;
}

Tensor Index(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

/// float64 on the CPU, seen as [rows, columns].
Tensor Matrix(const Tensor& weight) {
  return weight.detach().to(at::kCPU, at::kDouble).reshape({weight.size(0), -1});
}

/// What a layer's values are made with and read with, to be changed in place.
struct LayerMatrices {
  Tensor producer, consumer, bias;  // float64; bias may be undefined

  LayerMatrices(const ValueLayer& layer, const ParameterStore& store)
      : producer(Matrix(store.Get(layer.producer)).clone()),
        consumer(Matrix(store.Get(layer.consumer)).clone()) {
    if (!layer.bias.empty()) bias = Matrix(store.Get(layer.bias)).flatten().clone();
  }
  void WriteTo(const ValueLayer& layer, ParameterStore& store) const {
    const auto set = [&](const std::string& name, const Tensor& matrix) {
      const Tensor& old = store.Get(name);
      store.Set(name, matrix.reshape(old.sizes()).to(old.options()));
    };
    set(layer.producer, producer);
    set(layer.consumer, consumer);
    if (bias.defined()) set(layer.bias, bias);
  }
};

/// R with R^T R = C, where the last input is 1.
Tensor RootOf(const GramStatistics& statistics, bool bias) {
  Tensor gram = statistics.gram;
  if (bias) {
    const Tensor mean = statistics.mean.unsqueeze(1);
    gram =
        at::cat({at::cat({gram, mean}, 1), at::cat({mean.t(), at::ones({1, 1}, at::kDouble)}, 1)});
  }
  return at::linalg_cholesky(Damp(gram, kDamping)).t();
}

/// Turns one head in place; root as RootOf says.
void Turn(const ValueHead& head, const Tensor& root, LayerMatrices& layer) {
  const Tensor rows = Index(head.rows);
  Tensor first = layer.producer.index_select(0, rows);  // [dims, inputs]
  if (layer.bias.defined())
    first = at::cat({first, layer.bias.index_select(0, rows).unsqueeze(1)}, 1);
  std::vector<Tensor> reads;  // [dims, outputs] each
  for (const auto& columns : head.columns)
    reads.push_back(layer.consumer.index_select(1, Index(columns)).t());
  const BasisChange basis = SingularBasis(root, first.t(), at::cat(reads, 1));
  first = at::matmul(basis.to.t(), first);
  if (layer.bias.defined()) {
    layer.bias.index_copy_(0, rows, first.select(1, first.size(1) - 1));
    first = first.narrow(1, 0, first.size(1) - 1);
  }
  layer.producer.index_copy_(0, rows, first);
  for (size_t time = 0; time < reads.size(); ++time)
    layer.consumer.index_copy_(1, Index(head.columns[time]),
                               at::matmul(basis.back, reads[time]).t());
}

/// Runs two samples and compares what readers make of their values.
class Comparison {
 public:
  Comparison(const Space& space, const ParameterStore& store, const std::vector<ValueLayer>& layers,
             const Calibration& calibration)
      : space_(space), device_(calibration.device), executor_(space.network().graph) {
    const Batch batch = calibration.get(0);
    inputs_ = batch.Part(0, std::min<int64_t>(batch.size(), 2)).To(device_).inputs;
    std::set<int32_t> readers;
    for (const ValueLayer& layer : layers) readers.insert(layer.reader);
    wanted_ = Outputs(store, readers);
  }

  /// |difference| / |wanted| of the layer's reader.
  double Difference(const ParameterStore& store, const ValueLayer& layer) const {
    const Tensor& wanted = wanted_.at(layer.reader);
    const Tensor found = Outputs(store, {layer.reader}).at(layer.reader);
    const auto norm = [](const Tensor& x) { return x.norm(2, at::kDouble).item<double>(); };
    return norm(found - wanted) / std::max(norm(wanted), 1e-30);
  }

 private:
  std::map<int32_t, Tensor> Outputs(const ParameterStore& store,
                                    const std::set<int32_t>& ops) const {
    std::map<int32_t, Tensor> outputs;
    std::vector<Tap> taps;
    for (const int32_t op : ops)
      taps.push_back({space_.network().graph.ops[static_cast<size_t>(op)].outputs.front(),
                      [&outputs, op](const Tensor& value) { outputs[op] = value; }});
    executor_.Run(executor_.Bind(store.To(device_)), inputs_, {.taps = taps});
    return outputs;
  }

  const Space& space_;
  const at::Device device_;
  const Executor executor_;
  std::vector<Tensor> inputs_;
  std::map<int32_t, Tensor> wanted_;  // by reader
};

}  // namespace

std::vector<ValueLayer> FindValueLayers(const Space& space, const ParameterStore& store) {
  const Network& network = space.network();
  const auto ops = OpsByWeight(network, store);
  const auto only = [&](const std::string& weight) {  // the op that computes with it, or -1
    const auto found = ops.find(weight);
    return found == ops.end() || found->second.size() != 1 ? -1 : found->second.front();
  };
  const auto stored = [&](ValueId value) -> std::string {
    if (value == kNoValue) return "";
    const std::string& target = network.graph.values[static_cast<size_t>(value)].target;
    return target.empty() ? "" : store.Canonical(target);
  };
  std::vector<ValueLayer> layers;
  for (size_t g = 0; g < space.groups().size(); ++g) {
    const Group& group = space.groups()[g];
    const auto reads = [](const Member& member) { return member.role == MemberRole::kConsumer; };
    if (group.kind != "head_dim" || std::ranges::count_if(group.members, reads) != 1) continue;
    for (const Member& consumer : group.members) {
      if (consumer.role != MemberRole::kConsumer || consumer.axis != 1 || consumer.blocks != 1)
        continue;
      const int32_t reader = only(consumer.parameter);
      if (reader < 0) continue;
      const int32_t maker = ProducerOf(network, network.graph.ops[static_cast<size_t>(reader)]);
      if (maker < 0) continue;
      const Op& op = network.graph.ops[static_cast<size_t>(maker)];
      ValueLayer layer{.producer = stored(op.ValueArg("weight")),
                       .bias = stored(op.ValueArg("bias")),
                       .consumer = consumer.parameter,
                       .reader = reader,
                       .ways = {}};
      if (only(layer.producer) != maker || (layer.bias.empty() && op.ValueArg("bias") != kNoValue))
        continue;
      const UnitLayout layout(group, consumer);
      const auto by_unit = ColumnsByUnit(layout, store.Get(consumer.parameter));
      for (const Member& member : group.members) {
        if (member.parameter != layer.producer || member.role != MemberRole::kProducer) continue;
        for (int64_t way = 0; way < member.per_unit; ++way) {
          std::vector<ValueHead> heads;
          const int64_t count = group.units / group.blocks;
          for (int64_t first = 0; first < group.units; first += count) {
            std::vector<int64_t> units(static_cast<size_t>(count));
            std::iota(units.begin(), units.end(), first);
            ValueHead head{g, units, RowsOf(member, units, way), ColumnsOf(by_unit, units)};
            if (!head.rows.empty() && !head.columns.empty()) heads.push_back(std::move(head));
          }
          if (!heads.empty()) layer.ways.push_back(std::move(heads));
        }
      }
      std::ranges::reverse(layer.ways);  // packed projections have their values last
      if (!layer.ways.empty()) layers.push_back(layer);
    }
  }
  return layers;
}

ValueBasis TurnValues(const Space& space, const ParameterStore& store,
                      const Calibration& calibration) {
  const at::NoGradGuard no_grad;
  ValueBasis result;
  result.store = store;
  const std::vector<ValueLayer> layers = FindValueLayers(space, store);
  if (layers.empty()) return result;
  const Statistics statistics = CollectStatistics(space, store, {Need::kValueGram}, calibration);
  const Comparison comparison(space, store, layers, calibration);
  for (const ValueLayer& layer : layers) {
    const auto found = statistics.grams.find(layer.producer);
    if (found == statistics.grams.end() || !found->second.gram.defined()) {
      result.unchanged.push_back(layer.producer + ": no Gram matrix of its inputs");
      continue;
    }
    constexpr double kRounding = 1e-3;  // of float32; what is no sum of values is percents off
    const Tensor root = RootOf(found->second, !layer.bias.empty());
    double least = std::numeric_limits<double>::infinity();
    for (const std::vector<ValueHead>& heads : layer.ways) {
      LayerMatrices matrices(layer, store);
      for (const ValueHead& head : heads) Turn(head, root, matrices);
      ParameterStore turned = store;
      matrices.WriteTo(layer, turned);
      const double difference = comparison.Difference(turned, layer);
      least = std::min(least, difference);
      if (!(difference < kRounding)) continue;
      for (const std::string& name : {layer.producer, layer.bias, layer.consumer})
        if (!name.empty()) result.store.Set(name, turned.Get(name));
      result.layers.push_back(layer);
      result.layers.back().ways = {heads};
      auto& directions = result.direction_.emplace_back();
      for (const ValueHead& head : heads) {
        directions.emplace_back(head.units.size());
        std::iota(directions.back().begin(), directions.back().end(), 0);
      }
      break;
    }
    if (!(least < kRounding))
      result.unchanged.push_back(
          Str(layer.producer, ": its values are not only added up, a turn changes the outputs by ",
              100 * least, " %"));
  }
  return result;
}

std::vector<std::string> ValueBasis::names() const {
  std::vector<std::string> names;
  for (const ValueLayer& layer : layers) names.push_back(layer.producer);
  return names;
}

void ValueBasis::Arrange(const Scores& scores, const Selection& left) {
  const at::NoGradGuard no_grad;
  for (size_t l = 0; l < layers.size(); ++l) {
    const ValueLayer& layer = layers[l];
    LayerMatrices matrices(layer, store);
    for (size_t h = 0; h < layer.ways.front().size(); ++h) {
      const ValueHead& head = layer.ways.front()[h];
      std::vector<int64_t>& direction = direction_[l][h];
      std::vector<size_t> to;  // dims that are left, best score first
      for (size_t dim = 0; dim < head.units.size(); ++dim)
        if (std::ranges::binary_search(left[head.group], head.units[dim])) to.push_back(dim);
      std::vector<size_t> from = to;  // the same, largest singular value first
      std::stable_sort(to.begin(), to.end(), [&](size_t a, size_t b) {
        const auto& own = scores[head.group];
        return own[static_cast<size_t>(head.units[a])] > own[static_cast<size_t>(head.units[b])];
      });
      std::ranges::sort(from, {}, [&](size_t dim) { return direction[dim]; });
      const auto move = [&](Tensor& tensor, int64_t axis, const std::vector<int64_t>& places) {
        std::vector<int64_t> target, source;
        for (size_t i = 0; i < to.size(); ++i) {
          target.push_back(places[to[i]]);
          source.push_back(places[from[i]]);
        }
        tensor.index_copy_(axis, Index(target), tensor.index_select(axis, Index(source)));
      };
      move(matrices.producer, 0, head.rows);
      if (matrices.bias.defined()) move(matrices.bias, 0, head.rows);
      for (const auto& columns : head.columns) move(matrices.consumer, 1, columns);
      const std::vector<int64_t> before = direction;
      for (size_t i = 0; i < to.size(); ++i) direction[to[i]] = before[from[i]];
    }
    matrices.WriteTo(layer, store);
  }
}

}  // namespace espalier
