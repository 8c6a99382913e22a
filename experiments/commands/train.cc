#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/data/splits.h"
#include "env/eval/evaluator.h"
#include "env/graph/io.h"
#include "env/train/trainer.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/metric_log.h"
#include "experiments/model_source.h"
#include "experiments/run_folder.h"
#include "experiments/score_json.h"
#include "experiments/settings.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

struct TrainSettings {
  ModelConfig model;
  DataConfig data;
  TaskConfig task;
  TrainConfig train;
  RunSettings run;
  ConfigDocument document;
};

TrainSettings ReadSettings(const Arguments& arguments) {
  TrainSettings settings;
  settings.document = ConfigDocument::Load(arguments.positional()[0], arguments.List("set"));
  std::vector<std::string> problems;
  settings.document.CheckSections({"model", "data", "task", "train", "run"}, problems);
  ReadModelSection(settings.document, settings.model, problems);
  ReadSection(settings.document, "data", settings.data, problems);
  ReadSection(settings.document, "task", settings.task, problems);
  ReadSection(settings.document, "train", settings.train, problems);
  ReadSection(settings.document, "run", settings.run, problems);
  ThrowIfProblems(problems);
  return settings;
}

std::string ResolvedToml(TrainSettings settings) {
  const auto dump = [&](const std::string& name, auto& config) {
    return DumpToml(name, Describe(config), settings.document.Section(name)) + "\n";
  };
  return dump("model", settings.model) + dump("data", settings.data) + dump("task", settings.task) +
         dump("train", settings.train) + dump("run", settings.run);
}

ordered_json ToJson(const EpochRecord& record, const std::string& metric) {
  return {{"epoch", record.epoch},
          {"lr", record.lr},
          {"train_loss", record.train_loss},
          {"train_" + metric, record.train_metric},
          {"validation_" + metric, record.validation_metric},
          {"seconds", record.seconds}};
}

void WriteLog(const std::filesystem::path& file, const std::vector<EpochRecord>& history,
              const std::string& metric) {
  std::string text;
  for (const auto& record : history) text += ToJson(record, metric).dump() + "\n";
  WriteFileAtomic(file, text);
}

std::string ShapeText(const Dataset& samples) {
  std::string text;
  for (const int64_t size : samples.inputs.front().sizes())
    text += Str(text.empty() ? "" : "x", size);
  return text;
}

/// Everything that can be wrong with the input, found before a folder is made.
struct Inputs {
  at::Device device = at::kCPU;
  ModelSource source;
  Splits splits;
  Task task;
};

Inputs LoadInputs(const TrainSettings& settings) {
  const at::Device device = UseDevice(settings.run);
  ModelSource source = LoadModelSource(settings.model, static_cast<uint64_t>(settings.run.seed));
  DataConfig data = settings.data;
  SettleNormalisation(source, data);
  Splits splits = Splits::Load(data, &source.network);
  Task task = MakeTask(settings.task, splits.train(), source.network);
  if (task.compares())
    throw Error(ErrorKind::kConfig,
                Str("loss \"", task.loss, "\", metric \"", task.metric,
                    "\": a network that is only being trained has no uncut one to compare with"));
  return {device, std::move(source), splits.To(device), std::move(task)};
}

ordered_json TrainAndMeasure(const TrainSettings& settings, Inputs inputs, const RunFolder& folder,
                             const std::string& line) {
  auto& [device, source, splits, task] = inputs;
  const auto seed = static_cast<uint64_t>(settings.run.seed);
  LogInfo("training ", source.network.name, " on ", splits.train().count(), " samples of ",
          settings.data.name, " (", ShapeText(splits.train()), "), ", splits.validation().count(),
          " held out");

  MetricLog metrics(folder.path());
  source.network.store = source.network.store.To(device);
  const auto result = Train(source.network, splits, task, settings.train, seed,
                            folder.path() / "train", [&](const EpochRecord& record) {
                              const ordered_json values = ToJson(record, task.metric);
                              for (const auto& [name, value] : values.items())
                                if (name != "epoch")
                                  metrics.Add("train", record.epoch, name, value.get<double>());
                              AppendLine(folder.path() / "log.jsonl", values.dump());
                              LogInfo("epoch ", record.epoch, "/", settings.train.epochs, ": loss ",
                                      Fixed(record.train_loss, 4), ", training ",
                                      FigureText(task.metric, record.train_metric), ", validation ",
                                      FigureText(task.metric, record.validation_metric), ", ",
                                      Fixed(record.seconds, 1), " s");
                            });
  // The callback of an epoch can come twice or not at all around a crash; the history is exact.
  WriteLog(folder.path() / "log.jsonl", result.history, task.metric);

  const Score test = Evaluate(source.network, splits.test(), task);
  const std::string rule =
      splits.validation().count() == 0
          ? "none"
          : Str("the last ", splits.validation().count(), " of the training images in file order");
  const auto& used = splits.config();
  const auto file = folder.path() / "weights.safetensors";
  SaveWeights(file, source.network.store.To(at::kCPU),
              {{"format", "pt"},
               {"architecture", source.network.name},
               {"shortcut", settings.model.shortcut},
               {"data", Str(used.name, ", ", splits.train().count(), " training samples")},
               {"held_out", rule},
               {"normalisation", NormalisationText(used.mean, used.std)},
               {"test_" + task.metric, Fixed(test.value, 4)},
               {"seed", Str(settings.run.seed)},
               {"command", line}});
  ordered_json out = {{"run", folder.path().string()}, {"weights", file.string()}};
  out.update(ScoreToJson(test));
  out["epochs"] = settings.train.epochs;
  out["validation_" + task.metric] = result.history.empty()
                                         ? ordered_json()
                                         : ordered_json(result.history.back().validation_metric);
  return out;
}

int RunTrain(const Arguments& arguments) {
  const TrainSettings settings = ReadSettings(arguments);
  const auto path = RunFolderPath(settings.run, arguments.positional()[0], arguments.Text("out"));
  std::optional<Inputs> inputs;
  if (!std::filesystem::exists(path / "resolved.toml")) inputs = LoadInputs(settings);
  RunFolder folder(path, ResolvedToml(settings), arguments.Line());
  auto result = folder.Finished("train");
  if (!result) {
    if (!inputs) inputs = LoadInputs(settings);
    SetLogFile((folder.path() / "run.log").string());
    folder.Manifest(MachineFacts(inputs->device.str()),
                    {{"weights_sha256", inputs->source.file_sha256},
                     {"data_sha256", DataHash(inputs->splits)}});
    result = TrainAndMeasure(settings, std::move(*inputs), folder, arguments.Line());
    folder.Finish("train", *result);
  }
  if (arguments.json()) {
    PrintJson(*result);
  } else {
    Print(Str("test ", MetricTitle(MetricOf(*result)), " ", FigureText(*result), " on ",
              (*result)["samples"].get<int64_t>(), " samples\nweights ",
              (*result)["weights"].get<std::string>(), "\n"));
  }
  return 0;
}

void AddOptions(OptionList& add) {
  add.List("set", "A.B=VALUE", "override one key of the config, may be repeated");
  add.Text("out", "DIR", "", "the folder itself, instead of [run] out/name");
}

}  // namespace

const Command kTrainCommand = {
    .name = "train",
    .usage = "CONFIG",
    .summary = "train a base network",
    .detail =
        "Writes weights.safetensors, log.jsonl, resolved.toml and manifest.json. Stopped with\n"
        "Ctrl-C or killed, the same line continues where it was. The test images are read once,\n"
        "after the last epoch.",
    .examples = {"espalier train experiments/configs/train_resnet20.toml",
                 "espalier train experiments/configs/train_resnet20.toml --set train.epochs=2 "
                 "--out /tmp/short"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunTrain};

}  // namespace espalier
