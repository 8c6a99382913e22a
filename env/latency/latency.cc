#include "env/latency/latency.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <set>
#include <thread>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/base/machine.h"
#include "env/base/rng.h"
#include "env/eval/evaluator.h"
#include "env/latency/latency_tables.h"
#include "env/latency/op_calls.h"

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

/// Widths of the n-th cut: about one ratio, everywhere another; every second one in eights, as one
/// who cares about latency would cut. Every fourth branch is gone.
std::vector<int64_t> SampleCut(const Space& space, uint64_t number) {
  Rng rng(0, number, "latency/cuts");
  const double ratio = rng.Uniform(0.2, 1);
  std::vector<int64_t> kept;
  for (const Group& group : space.groups()) {
    const double own = std::clamp(ratio + rng.Uniform(-0.3, 0.3), 0.05, 1.0);
    if (group.least == 0) {
      kept.push_back(rng.Uniform() < 0.75);
      continue;
    }
    int64_t step = group.blocks;
    if (number % 2 == 1 && group.units >= 16) step = std::lcm<int64_t>(step, 8);
    const auto count =
        std::llround(own * static_cast<double>(group.units) / static_cast<double>(step)) * step;
    kept.push_back(std::clamp<int64_t>(count, std::max(group.least, std::min(step, group.units)),
                                       group.units));
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
      .Add("report", &config.report, "also predict it from its operators when no bound asks for it")
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

namespace {

/// A network as it is run for inference, and what its time is kept under.
class WholeNetwork {
 public:
  WholeNetwork(const Network& network, const LatencyConfig& config, at::Device device)
      : inference_(On(device, network), TypeOf(config)), key_(KeyOf(inference_.network())) {
    for (const Tensor& input : SampleInputs(inference_.network(), config.batch))
      inputs_.push_back(PrepareInput(input.to(device), TypeOf(config)));
  }
  const std::string& key() const { return key_; }
  double Milliseconds(Meter& meter) const {
    return std::max(1e-6, meter.Milliseconds(inference_.network(), inputs_, {}));
  }

 private:
  static Network On(at::Device device, Network network) {
    network.store = network.store.To(device);
    return network;
  }
  const InferenceNetwork inference_;
  const std::string key_;
  std::vector<Tensor> inputs_;
};

/// Asks for every network's time, several times and in turns where it is short: what disturbs a
/// machine for a second only ever adds time, and not in every round. network: i -> it, made anew.
std::vector<double> InTurns(size_t count, const std::function<WholeNetwork(size_t)>& network,
                            Meter& meter, LatencyCache* cache) {
  constexpr int kRounds = 3;
  constexpr double kShortMs = 50;
  std::vector<double> ms(count, std::numeric_limits<double>::infinity());
  std::vector<bool> settled(count);
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < count; ++i) {
      if (settled[i]) continue;
      ThrowIfInterrupted("measuring latency");
      const WholeNetwork whole = network(i);
      const auto known = round == 0 && cache != nullptr ? cache->Find(whole.key()) : std::nullopt;
      ms[i] = known ? *known : std::min(ms[i], whole.Milliseconds(meter));
      settled[i] = known || ms[i] > kShortMs;
      if (!known && cache != nullptr) cache->Put(whole.key(), ms[i]);
    }
  return ms;
}

}  // namespace

std::vector<double> MeasureNetworks(const std::vector<const Network*>& networks,
                                    const LatencyConfig& config, at::Device device, Meter& meter) {
  const ThreadCount threads(ThreadsOf(config));
  return InTurns(
      networks.size(), [&](size_t i) { return WholeNetwork(*networks[i], config, device); }, meter,
      nullptr);
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
    LatencyModel model = MeasureTables(space, calls, meter, cache, result);
    LogInfo("latency: ", result.points, " points, ", result.measured, " of them measured now");

    std::vector<LatencyModel::Sums> sums, check_sums;
    std::vector<double> measured, check_measured;
    const auto cuts = SampleCuts(space, config.networks + config.held_out);
    // With few cuts to be had the uncut network is the only one fitted to, the others check.
    result.networks =
        std::min(config.networks, std::max<int64_t>(1, std::ssize(cuts) - config.held_out));
    const std::vector<double> times = InTurns(
        cuts.size(),
        [&](size_t i) {
          const Plan plan = MakePlan(space, SelectFirst(space, cuts[i]));
          return WholeNetwork(Cut(space.network(), plan), config, device);
        },
        meter, &cache);
    for (size_t i = 0; i < cuts.size(); ++i) {
      // Evenly mixed: a machine that grows slower on the way does so for both.
      const bool fitted =
          std::ssize(sums) * std::ssize(cuts) < static_cast<int64_t>(i + 1) * result.networks;
      const std::vector<double> counts(cuts[i].begin(), cuts[i].end());
      (fitted ? sums : check_sums).push_back(model.SumsAt(counts));
      (fitted ? measured : check_measured).push_back(times[i]);
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
