#pragma once

#include <memory>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/cost/latency_model.h"
#include "env/latency/latency_cache.h"
#include "env/latency/meter.h"
#include "env/space/space.h"

namespace espalier {

/// [latency]: how the time of a forward is measured and predicted.
struct LatencyConfig {
  bool report = false;             ///< also predict it when no bound asks for it
  int64_t batch = 1;               ///< samples of one forward
  int64_t threads = 0;             ///< inside operators; 0 = as many as the program uses
  std::string precision = "fp32";  ///< fp32 or bf16
  int64_t repeats = 15;            ///< timed runs of whatever is measured, at least
  int64_t networks = 12;           ///< whole cut networks the sum of the ops is fitted to
  int64_t held_out = 10;           ///< others, that tell how far predictions are off
  std::string cache = "";          ///< folder; "" = the user's cache folder, "none" = no cache
};
Schema Describe(LatencyConfig& config);

/// What times depend on besides the network: processor or device, cores, threads, LibTorch, number
/// format, batch. Tables of one identity are never used for another.
nlohmann::json DeviceIdentity(const LatencyConfig& config, at::Device device);

/// The cache of this config and device: "espalier" in $XDG_CACHE_HOME or ~/.cache unless the config
/// names a folder.
LatencyCache OpenLatencyCache(const LatencyConfig& config, at::Device device);

struct MeasuredLatency {
  std::shared_ptr<const LatencyModel> model;
  int64_t networks = 0, held_out = 0;        ///< whole networks measured
  double median_error = 0, worst_error = 0;  ///< |predicted / measured - 1| on those held out
  std::vector<std::pair<double, double>> checks{};  ///< (predicted, measured) ms of those
  std::vector<std::string> left_out{};  ///< ops that could not be measured alone, with the reason
  int64_t points = 0, measured = 0;     ///< of all tables; of them not found in the cache
  int64_t repeated = 0;                 ///< measurements of points that were made again
};

/// Tables of every op over its widths, corrected by whole networks.
///
/// Ops that do the same work share a table. An op with up to two groups has a grid over their kept
/// counts (WidthGrid); one with more over its one or two widths, or over the elements it touches,
/// all groups at one ratio. Whole networks are cut at random widths and run as they are delivered:
/// InferenceNetwork of the Cut.
///
/// Random   the cuts, from a stream of their own: always the same ones.
/// Errors   kInterrupted when asked to stop; the cache keeps what was measured so far.
/// Cost     minutes at first; with a full cache the rewriting of the network.
MeasuredLatency MeasureLatency(const Space& space, const LatencyConfig& config, at::Device device,
                               Meter& meter, LatencyCache& cache);

/// Networks as they are run for inference, several times and in turns where they are quick.
/// -> milliseconds
std::vector<double> MeasureNetworks(const std::vector<const Network*>& networks,
                                    const LatencyConfig& config, at::Device device, Meter& meter);

}  // namespace espalier
