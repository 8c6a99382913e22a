#include "experiments/latency_options.h"

#include "env/base/error.h"
#include "env/base/log.h"
#include "experiments/budget_options.h"
#include "experiments/model_source.h"

namespace espalier {

using nlohmann::ordered_json;

void AddLatencyOptions(OptionList& add) {
  const LatencyConfig defaults;
  add.Integer("batch", "N", defaults.batch, "of latency: samples of one forward");
  add.Text("precision", "NAME", defaults.precision, "of latency: fp32 or bf16");
  add.Text("device", "DEVICE", "auto", "of latency: auto, cpu, cuda or cuda:N");
  add.Text("latency-cache", "DIR", defaults.cache,
           "what was measured before; default: the user's cache folder; none: measure anew");
}

LatencyConfig ReadLatencyOptions(const Arguments& arguments) {
  LatencyConfig config;
  config.batch = arguments.Integer("batch");
  config.precision = arguments.Text("precision");
  config.cache = arguments.Text("latency-cache");
  if (config.batch < 1 || config.batch > 65536)
    throw Error(ErrorKind::kUsage, "--batch must be in [1, 65536]");
  if (config.precision != "fp32" && config.precision != "bf16")
    throw Error(ErrorKind::kUsage,
                Str("--precision '", config.precision, "' must be fp32 or bf16"));
  return config;
}

LatencyStudy AddLatency(const Space& space, const LatencyConfig& config, at::Device device,
                        CostModel& cost, const std::filesystem::path& first) {
  LatencyCache cache(DeviceIdentity(config, device));
  if (first.empty() || !cache.Read(first)) cache = OpenLatencyCache(config, device);
  LogInfo("latency: measuring '", space.network().name, "' at batch ", config.batch, " on ",
          cache.device()["processor"].get<std::string>());
  DeviceMeter meter(config.repeats);
  MeasuredLatency measured = MeasureLatency(space, config, device, meter, cache);
  cost.UseLatency(measured.model);
  return {config, device, std::move(cache), std::move(measured)};
}

ordered_json LatencyToJson(const LatencyStudy& study) {
  const MeasuredLatency& found = study.measured;
  const auto& fit = found.model->correction();
  return {{"device", ordered_json::parse(study.cache.device().dump())},
          {"points", found.points},
          {"measured", found.measured},
          {"networks", found.networks},
          {"held_out", found.held_out},
          {"median_error", found.median_error},
          {"worst_error", found.worst_error},
          {"checks", found.checks},
          {"correction",
           {{"heavy", fit.heavy}, {"light", fit.light}, {"overhead_ms", fit.overhead_ms}}},
          {"left_out", found.left_out}};
}

std::string LatencyText(const ordered_json& latency, bool all) {
  const auto& device = latency["device"];
  std::string text =
      Str("batch ", device["batch"].get<int64_t>(), ", ", device["precision"].get<std::string>(),
          ", ", device["threads"].get<int64_t>(), " threads, ", device["device"].get<std::string>(),
          " (", device["processor"].get<std::string>(), ")\n", latency["points"].get<int64_t>(),
          " points of operators, ", latency["measured"].get<int64_t>(), " measured now; fitted to ",
          latency["networks"].get<int64_t>(), " whole cut networks;\n");
  const int64_t others = latency["held_out"];
  text += others == 0
              ? "there was no other cut to check predictions on\n"
              : Str("predictions are off by ", Percent(latency["median_error"], 1), " (median of ",
                    others, " others), ", Percent(latency["worst_error"], 1), " at worst\n");
  if (all) {
    TextTable table({"predicted", "measured", "off by"});
    for (const auto& check : latency["checks"]) {
      const double predicted = check[0], measured = check[1];
      table.Add({CostText("latency_ms", predicted), CostText("latency_ms", measured),
                 Percent(predicted / measured - 1, 1)});
    }
    text += table.Text("  ");
  }
  for (const auto& line : latency["left_out"])
    text += Str("not in the sum: ", line.get<std::string>(), "\n");
  return text;
}

std::string LatencyVerdict(double macs_before, double macs_after, double ms_before,
                           double ms_after) {
  const double macs_fall = 1 - macs_after / macs_before, ms_fall = 1 - ms_after / ms_before;
  constexpr double kWorthMention = 0.1;  // of MACs saved
  if (macs_fall < kWorthMention || ms_fall >= macs_fall / 2) return "";
  return Str("Latency does not follow: MACs fell by ", Percent(macs_fall, 1), ", latency ",
             ms_fall > 0 ? Str("by ", Percent(ms_fall, 1), " only")
                         : Str("rose by ", Percent(-ms_fall, 1)),
             ". Kernels work in blocks of 8 or 16 channels, and small layers cost their call: "
             "bound latency_ms itself, or round widths (round_to = 8).");
}

ordered_json LatencyChange(const LatencyConfig& config, at::Device device,
                           const LatencyStudy* study, const CostModel& cost,
                           const Selection& selection, const Network& before,
                           const Network& after) {
  LogInfo("latency: before and after");
  const auto counts = KeptCounts(selection);
  const std::vector<double> kept(counts.begin(), counts.end());
  const Cost full = cost.Full(), left = cost.Evaluate(kept);
  DeviceMeter meter(config.repeats);
  const std::vector<double> measured = MeasureNetworks({&before, &after}, config, device, meter);
  ordered_json change = {
      {"measured", measured},
      {"batch", config.batch},
      {"threads", DeviceIdentity(config, device)["threads"].get<int64_t>()},
      {"precision", config.precision},
      {"verdict", LatencyVerdict(full.macs, left.macs, measured[0], measured[1])}};
  if (study != nullptr) {
    change["predicted"] = {full.latency_ms, left.latency_ms};
    change["median_error"] = study->measured.median_error;
    change["held_out"] = study->measured.held_out;
  }
  return change;
}

std::string LatencyChangeText(const ordered_json& change) {
  const double before = change["measured"][0], after = change["measured"][1];
  const std::string predicted =
      change.contains("predicted")
          ? Str(", ", CostText("latency_ms", change["predicted"][0]), " -> ",
                CostText("latency_ms", change["predicted"][1]), " predicted")
          : "";
  return Str(CostText("latency_ms", before), " -> ", CostText("latency_ms", after), " measured (",
             Percent(after / before, 1), ")", predicted, "; batch ", change["batch"].get<int64_t>(),
             ", ", change["threads"].get<int64_t>(), " threads, ",
             change["precision"].get<std::string>());
}

}  // namespace espalier
