#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/data/dataset.h"
#include "env/eval/evaluator.h"
#include "env/graph/io.h"
#include "env/train/trainer.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/metric_log.h"
#include "experiments/model_source.h"
#include "experiments/run_folder.h"
#include "experiments/settings.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

struct TrainSettings {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  RunSettings run;
  ConfigDocument document;
};

TrainSettings ReadSettings(const Arguments& arguments) {
  TrainSettings settings;
  settings.document = ConfigDocument::Load(arguments.positional()[0], arguments.List("set"));
  std::vector<std::string> problems;
  settings.document.CheckSections({"model", "data", "train", "run"}, problems);
  ReadModelSection(settings.document, settings.model, problems);
  ReadSection(settings.document, "data", settings.data, problems);
  ReadSection(settings.document, "train", settings.train, problems);
  ReadSection(settings.document, "run", settings.run, problems);
  ThrowIfProblems(problems);
  return settings;
}

std::string ResolvedToml(TrainSettings settings) {
  const auto dump = [&](const std::string& name, auto& config) {
    return DumpToml(name, Describe(config), settings.document.Section(name)) + "\n";
  };
  return dump("model", settings.model) + dump("data", settings.data) +
         dump("train", settings.train) + dump("run", settings.run);
}

ordered_json ToJson(const EpochRecord& record) {
  return {{"epoch", record.epoch},
          {"lr", record.lr},
          {"train_loss", record.train_loss},
          {"train_accuracy", record.train_accuracy},
          {"validation_accuracy", record.validation_accuracy},
          {"seconds", record.seconds}};
}

void WriteLog(const std::filesystem::path& file, const std::vector<EpochRecord>& history) {
  std::string text;
  for (const auto& record : history) text += ToJson(record).dump() + "\n";
  WriteFileAtomic(file, text);
}

std::string ShapeText(const ImageSet& images) {
  std::string text;
  for (const int64_t size : images.images.sizes()) text += Str(text.empty() ? "" : "x", size);
  return text;
}

/// Everything that can be wrong with the input, found before a folder is made.
struct Inputs {
  at::Device device = at::kCPU;
  ModelSource source;
  Splits splits;
};

Inputs LoadInputs(const TrainSettings& settings) {
  const at::Device device = ParseDevice(settings.run.device);
  ModelSource source = LoadModelSource(settings.model, static_cast<uint64_t>(settings.run.seed));
  DataConfig data = settings.data;
  SettleNormalisation(source, data);
  return {device, std::move(source), Splits::Load(data)};
}

ordered_json TrainAndMeasure(const TrainSettings& settings, Inputs inputs, const RunFolder& folder,
                             const std::string& line) {
  auto& [device, source, splits] = inputs;
  const auto seed = static_cast<uint64_t>(settings.run.seed);
  LogInfo("training ", source.network.name, " on ", splits.train().count(), " images of ",
          settings.data.name, " (", ShapeText(splits.train()), "), ", splits.validation().count(),
          " held out");

  MetricLog metrics(folder.path());
  source.network.store = source.network.store.To(device);
  const auto result =
      Train(source.network, splits, settings.train, seed, folder.path() / "train",
            [&](const EpochRecord& record) {
              const ordered_json values = ToJson(record);
              for (const auto& [name, value] : values.items())
                if (name != "epoch") metrics.Add("train", record.epoch, name, value.get<double>());
              AppendLine(folder.path() / "log.jsonl", ToJson(record).dump());
              LogInfo("epoch ", record.epoch, "/", settings.train.epochs, ": loss ",
                      Fixed(record.train_loss, 4), ", training ", Percent(record.train_accuracy),
                      ", validation ", Percent(record.validation_accuracy), ", ",
                      Fixed(record.seconds, 1), " s");
            });
  // The callback of an epoch can come twice or not at all around a crash; the history is exact.
  WriteLog(folder.path() / "log.jsonl", result.history);

  const Accuracy test = Evaluate(source.network, splits, splits.test());
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
               {"data", Str(used.name, ", ", splits.train().count(), " training images")},
               {"held_out", rule},
               {"normalisation", NormalisationText(used.mean, used.std)},
               {"test_accuracy", Fixed(test.value, 4)},
               {"seed", Str(settings.run.seed)},
               {"command", line}});
  return {{"run", folder.path().string()},
          {"weights", file.string()},
          {"accuracy", test.value},
          {"standard_error", test.standard_error},
          {"images", test.images},
          {"loss", test.loss},
          {"epochs", settings.train.epochs},
          {"validation_accuracy", result.history.empty()
                                      ? ordered_json()
                                      : ordered_json(result.history.back().validation_accuracy)}};
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
    Print(Str("test accuracy ", Percent((*result)["accuracy"]), " +- ",
              Percent((*result)["standard_error"]), " on ", (*result)["images"].get<int64_t>(),
              " images\nweights       ", (*result)["weights"].get<std::string>(), "\n"));
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
