#include "experiments/epoch_log.h"

#include "env/base/error.h"
#include "env/base/log.h"
#include "experiments/command_line.h"
#include "experiments/score_json.h"

namespace espalier {

using nlohmann::ordered_json;

std::function<void(const EpochRecord&)> EpochLog(MetricLog& metrics, const std::string& stage,
                                                 int64_t epochs, const std::string& metric) {
  return [&metrics, stage, epochs, metric](const EpochRecord& record) {
    metrics.Add(stage, record.epoch, "lr", record.lr);
    metrics.Add(stage, record.epoch, "train_loss", record.train_loss);
    metrics.Add(stage, record.epoch, "train_" + metric, record.train_metric);
    metrics.Add(stage, record.epoch, "validation_" + metric, record.validation_metric);
    LogInfo(stage, ": epoch ", record.epoch, "/", epochs, ", loss ", Fixed(record.train_loss, 4),
            ", training ", FigureText(metric, record.train_metric), ", validation ",
            FigureText(metric, record.validation_metric), ", ", Fixed(record.seconds, 1), " s");
  };
}

ordered_json TrainingJson(const std::vector<EpochRecord>& history, const std::string& metric) {
  ordered_json rows = ordered_json::array();
  double seconds = 0;
  for (const EpochRecord& record : history) {
    seconds += record.seconds;
    rows.push_back({{"epoch", record.epoch},
                    {"lr", record.lr},
                    {"train_loss", record.train_loss},
                    {"train_" + metric, record.train_metric},
                    {"validation_" + metric, record.validation_metric}});
  }
  return {{"history", rows}, {"seconds", seconds}};
}

}  // namespace espalier
