#include "experiments/metric_log.h"

#include <nlohmann/json.hpp>

#include "env/base/error.h"

namespace espalier {

MetricLog::MetricLog(const std::filesystem::path& folder)
    : store_(folder / "run.db"),
      lines_(folder / "metrics.jsonl", std::ios::app),
      events_(folder / "events") {
  if (!lines_)
    throw Error(ErrorKind::kIo, Str("cannot write '", (folder / "metrics.jsonl").string(), "'"));
}

void MetricLog::Add(const std::string& stage, int64_t step, std::string_view name, double value) {
  const std::string key(name);
  store_.SetMetric(stage, step, key, value);
  const nlohmann::ordered_json line = {
      {"stage", stage}, {"step", step}, {"name", key}, {"value", value}};
  lines_ << line.dump() << '\n';
  lines_.flush();
  events_.Scalar(stage + "/" + key, step, value);
}

}  // namespace espalier
