#include "env/latency/latency.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <thread>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/base/machine.h"
#include "env/base/rng.h"
#include "env/cost/axis_counts.h"
#include "env/eval/evaluator.h"
#include "env/latency/op_calls.h"
#include "env/latency/width_grid.h"

namespace espalier {
namespace {

at::ScalarType TypeOf(const LatencyConfig& config) {
  return config.precision == "bf16" ? at::kBFloat16 : at::kFloat;
}

int ThreadsOf(const LatencyConfig& config) {
  return config.threads > 0 ? static_cast<int>(config.threads) : at::get_num_threads();
}

class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(at::get_num_threads()) {
    at::set_num_threads(threads);
  }
  ~ThreadCount() { at::set_num_threads(before_); }

 private:
  const int before_;
};

/// One direction of an op's grid: groups that keep the same share, and what the table is read by.
struct Direction {
  std::vector<int32_t> groups;
  LatencyModel::Width width;
  int64_t full = 0;  // the widest there is, in channels; 0: no channels, any eight shares do
};

class Tables {
 public:
  Tables(const Space& space, const OpCalls& calls, Meter& meter, LatencyCache& cache,
         MeasuredLatency& result)
      : space_(space), calls_(calls), meter_(meter), cache_(cache), result_(result) {
    for (const Group& group : space.groups()) {
      units_.push_back(group.units);
      axes_.push_back({0, {{.group = static_cast<int32_t>(axes_.size())}}});
    }
  }

  LatencyModel Make() {
    std::vector<LatencyModel::Op> ops;
    for (size_t op = 0; op < calls_.facts().size(); ++op)
      if (calls_.facts()[op].measured) {
        ThrowIfInterrupted("measuring latency");
        try {
          ops.push_back(OpTable(op));
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::kModel) throw;
          result_.left_out.push_back(Str(calls_.Name(op), ": ", error.message()));
        }
      }
    return {units_, axes_, std::move(ops)};
  }

 private:
  static constexpr size_t kMostAlone = 24, kMostTogether = 8;  // points of a width

  int32_t AxisId(const AxisCount& axis) {
    const auto known = std::find(axes_.begin(), axes_.end(), axis);
    if (known != axes_.end()) return static_cast<int32_t>(known - axes_.begin());
    axes_.push_back(axis);
    return static_cast<int32_t>(axes_.size() - 1);
  }

  /// Up to two groups: their kept counts. More: its axes, if there are two that share no group;
  /// else the elements the op touches.
  std::vector<Direction> DirectionsOf(const OpCalls::Facts& facts) {
    std::vector<Direction> directions;
    if (facts.groups.size() <= 2) {
      for (const int32_t group : facts.groups)
        directions.push_back({{group}, {{1, {group}}}, units_[static_cast<size_t>(group)]});
      return directions;
    }
    std::set<int32_t> all;
    size_t together = 0;
    const std::vector<double> full(units_.begin(), units_.end());
    for (const AxisCount& axis : facts.axes) {
      const std::set<int32_t> groups = GroupsOf(axis);
      together += groups.size();
      all.insert(groups.begin(), groups.end());
      directions.push_back({{groups.begin(), groups.end()},
                            {{1, {AxisId(axis)}}},
                            std::llround(CountOf(axis, units_, full))});
    }
    if (directions.size() <= 2 && together == all.size()) return directions;
    LatencyModel::Width elements = facts.elements;
    for (auto& term : elements)
      for (int32_t& axis : term.axes) axis = AxisId(facts.axes[static_cast<size_t>(axis)]);
    return {{facts.groups, elements, 0}};
  }

  /// Kept counts of a direction's groups at each of its points.
  std::vector<std::vector<int64_t>> PointsOf(const Direction& direction, size_t most) const {
    const auto blocks = [&](int32_t group) {
      return space_.groups()[static_cast<size_t>(group)].blocks;
    };
    const int64_t step = direction.groups.size() == 1 ? blocks(direction.groups[0]) : 1;
    const int64_t full = direction.full > 0 ? direction.full : 64;
    std::vector<std::vector<int64_t>> points;
    for (const int64_t width : WidthGrid(full, step, most)) {
      const double share = static_cast<double>(width) / static_cast<double>(full);
      std::vector<int64_t> kept;
      for (const int32_t group : direction.groups) {
        const int64_t units = units_[static_cast<size_t>(group)], block = blocks(group);
        const double wanted = share * static_cast<double>(units) / static_cast<double>(block);
        kept.push_back(std::clamp<int64_t>(std::llround(wanted) * block, block, units));
      }
      if (points.empty() || points.back() != kept) points.push_back(std::move(kept));
    }
    return points;
  }

  double WidthAt(const LatencyModel::Width& width, const std::vector<int64_t>& kept) const {
    const std::vector<double> counts(kept.begin(), kept.end());
    return LatencyModel::WidthAt(width, axes_, units_, counts);
  }

  double Measure(size_t op, const std::vector<int64_t>& kept) {
    const OpCall call = calls_.At(op, kept);
    ++result_.points;
    if (const auto known = cache_.Find(call.key)) return *known;
    const double ms = std::max(1e-6, meter_.Milliseconds(call.network, {}, call.fresh));
    cache_.Put(call.key, ms);
    ++result_.measured;
    if (result_.measured % 500 == 0) {
      LogInfo("latency: ", result_.measured, " op shapes measured");
      cache_.Save();
    }
    return ms;
  }

  LatencyModel::Op OpTable(size_t op) {
    const OpCalls::Facts& facts = calls_.facts()[op];
    LatencyModel::Op made;
    made.heavy = facts.heavy;
    const std::vector<Direction> directions = DirectionsOf(facts);
    const size_t most = directions.size() == 2 ? kMostTogether : kMostAlone;
    std::vector<std::vector<std::vector<int64_t>>> points;
    for (const Direction& direction : directions) {
      made.widths.push_back(direction.width);
      points.push_back(PointsOf(direction, most));
      std::vector<double> grid;
      for (const auto& counts : points.back())
        grid.push_back(WidthAt(direction.width, At(units_, direction, counts)));
      made.table.grid.push_back(std::move(grid));
    }
    const auto each = [&](const std::vector<int64_t>& kept, size_t place, const auto& self) {
      if (place == directions.size()) {
        made.table.ms.push_back(Measure(op, kept));
        return;
      }
      for (const auto& counts : points[place])
        self(At(kept, directions[place], counts), place + 1, self);
    };
    each(units_, 0, each);
    return made;
  }

  static std::vector<int64_t> At(std::vector<int64_t> kept, const Direction& direction,
                                 const std::vector<int64_t>& counts) {
    for (size_t i = 0; i < counts.size(); ++i)
      kept[static_cast<size_t>(direction.groups[i])] = counts[i];
    return kept;
  }

  const Space& space_;
  const OpCalls& calls_;
  Meter& meter_;
  LatencyCache& cache_;
  MeasuredLatency& result_;
  std::vector<int64_t> units_;
  std::vector<AxisCount> axes_;  // those of the groups alone first
};

/// Widths of the n-th cut: about one ratio, everywhere another; every second one in eights, as one
/// who cares about latency would cut.
std::vector<int64_t> SampleCut(const Space& space, uint64_t number) {
  Rng rng(0, number, "latency/cuts");
  const double ratio = rng.Uniform(0.2, 1);
  std::vector<int64_t> kept;
  for (const Group& group : space.groups()) {
    const double own = std::clamp(ratio + rng.Uniform(-0.3, 0.3), 0.05, 1.0);
    int64_t step = group.blocks;
    if (number % 2 == 1 && group.units >= 16) step = std::lcm<int64_t>(step, 8);
    const auto count =
        std::llround(own * static_cast<double>(group.units) / static_cast<double>(step)) * step;
    kept.push_back(std::clamp<int64_t>(count, std::min(step, group.units), group.units));
  }
  return kept;
}

/// So many different cuts, the uncut network first; fewer where there are no more.
std::vector<std::vector<int64_t>> SampleCuts(const Space& space, int64_t wanted) {
  std::vector<std::vector<int64_t>> cuts = {KeptCounts(KeepAll(space))};
  constexpr int64_t kDraws = 20;  // for each
  for (int64_t draw = 0; draw < kDraws * wanted && std::ssize(cuts) < wanted; ++draw) {
    std::vector<int64_t> cut = SampleCut(space, static_cast<uint64_t>(draw));
    if (std::find(cuts.begin(), cuts.end(), cut) == cuts.end()) cuts.push_back(std::move(cut));
  }
  return cuts;
}

/// What a network does, without its values: operators, literals, and the shapes of what it stores.
std::string KeyOf(const Network& network) {
  std::string text;
  for (const Op& op : network.graph.ops) {
    text += op.target();
    for (const Arg& arg : op.args)
      if (const auto* constant = std::get_if<c10::IValue>(&arg)) text += Str(" ", *constant);
    for (const Use& use : UsesOf(op)) {
      text += Str(" ", use.value);
      const std::string& target = network.graph.values[static_cast<size_t>(use.value)].target;
      if (target.empty()) continue;
      const Tensor& tensor = network.store.Get(target);
      text += Str(":", c10::toString(tensor.scalar_type()), tensor.sizes());
    }
    text += "\n";
  }
  for (const InputSpec& input : network.graph.inputs)
    text += Str(c10::toString(input.dtype), at::IntArrayRef(input.sizes));
  return "network " + Sha256Hex(text);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

Schema Describe(LatencyConfig& config) {
  return Schema()
      .Add("report", &config.report, "measure and report it even when no bound asks for it")
      .Add("batch", &config.batch, "samples of one forward", IntRange{1, 65536})
      .Add("threads", &config.threads, "inside operators; 0 = as many as the program uses",
           IntRange{0, 1024})
      .Add("precision", &config.precision, "of the network that is measured", {"fp32", "bf16"})
      .Add("repeats", &config.repeats, "timed runs of whatever is measured, at least",
           IntRange{1, 100000})
      .Add("networks", &config.networks,
           "whole cut networks the sum of the ops is fitted to; 0 = take the sum as it is",
           IntRange{0, 1000})
      .Add("held_out", &config.held_out, "others, that tell how far predictions are off",
           IntRange{1, 1000})
      .Add("cache", &config.cache,
           "folder of what was measured before; \"\" = the user's cache folder, \"none\" = none");
}

nlohmann::json DeviceIdentity(const LatencyConfig& config, at::Device device) {
  return {{"device", device.str()},
          {"processor", ProcessorName()},
          {"accelerators", device.is_cpu() ? "" : AcceleratorNames()},
          {"capability", at::get_cpu_capability()},
          {"cores", std::thread::hardware_concurrency()},
          {"threads", ThreadsOf(config)},
          {"libtorch", TORCH_VERSION},
          {"precision", config.precision},
          {"batch", config.batch}};
}

LatencyCache OpenLatencyCache(const LatencyConfig& config, at::Device device) {
  nlohmann::json identity = DeviceIdentity(config, device);
  if (config.cache == "none") return LatencyCache(std::move(identity));
  std::filesystem::path folder = config.cache;
  if (folder.empty()) {
    const char* cache = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    if (cache != nullptr && *cache != '\0')
      folder = std::filesystem::path(cache) / "espalier";
    else if (home != nullptr && *home != '\0')
      folder = std::filesystem::path(home) / ".cache" / "espalier";
    else
      return LatencyCache(std::move(identity));
  }
  return {folder, std::move(identity)};
}

double MeasureNetwork(const Network& network, const LatencyConfig& config, at::Device device,
                      Meter& meter, LatencyCache* cache) {
  const ThreadCount threads(ThreadsOf(config));
  Network moved = network;
  moved.store = network.store.To(device);
  const InferenceNetwork inference(moved, TypeOf(config));
  const std::string key = KeyOf(inference.network());
  if (cache != nullptr)
    if (const auto known = cache->Find(key)) return *known;
  std::vector<Tensor> inputs;
  for (const Tensor& input : SampleInputs(inference.network(), config.batch))
    inputs.push_back(PrepareInput(input.to(device), TypeOf(config)));
  const double ms = std::max(1e-6, meter.Milliseconds(inference.network(), inputs, {}));
  if (cache != nullptr) cache->Put(key, ms);
  return ms;
}

MeasuredLatency MeasureLatency(const Space& space, const LatencyConfig& config, at::Device device,
                               Meter& meter, LatencyCache& cache) {
  const ThreadCount threads(ThreadsOf(config));
  MeasuredLatency result;
  const auto keep = [&](const auto& work) {  // what was measured, whatever happens
    try {
      work();
    } catch (...) {
      cache.Save();
      throw;
    }
    cache.Save();
  };
  keep([&] {
    const OpCalls calls(space, config.batch, TypeOf(config), device);
    LatencyModel model = Tables(space, calls, meter, cache, result).Make();
    LogInfo("latency: ", result.points, " points, ", result.measured, " of them measured now");

    std::vector<LatencyModel::Sums> sums, check_sums;
    std::vector<double> measured, check_measured;
    const auto cuts = SampleCuts(space, config.networks + config.held_out);
    // With few cuts to be had the uncut network is the only one fitted to, the others check.
    result.networks =
        std::min(config.networks, std::max<int64_t>(1, std::ssize(cuts) - config.held_out));
    for (size_t i = 0; i < cuts.size(); ++i) {
      ThrowIfInterrupted("measuring latency");
      const std::vector<int64_t>& kept = cuts[i];
      // Evenly mixed: a machine that grows slower on the way does so for both.
      const bool fitted =
          std::ssize(sums) * std::ssize(cuts) < static_cast<int64_t>(i + 1) * result.networks;
      const std::vector<double> counts(kept.begin(), kept.end());
      (fitted ? sums : check_sums).push_back(model.SumsAt(counts));
      (fitted ? measured : check_measured)
          .push_back(MeasureNetwork(Cut(space.network(), MakePlan(space, SelectFirst(space, kept))),
                                    config, device, meter, &cache));
    }
    model.Correct(FitCorrection(sums, measured));
    std::vector<double> errors;
    for (size_t i = 0; i < check_sums.size(); ++i) {
      const double predicted = model.correction().Ms(check_sums[i]);
      result.checks.emplace_back(predicted, check_measured[i]);
      errors.push_back(std::abs(predicted / check_measured[i] - 1));
    }
    result.held_out = std::ssize(errors);
    if (!errors.empty()) {
      result.median_error = Median(errors);
      result.worst_error = *std::max_element(errors.begin(), errors.end());
    }
    result.model = std::make_shared<const LatencyModel>(std::move(model));
  });
  return result;
}

}  // namespace espalier
