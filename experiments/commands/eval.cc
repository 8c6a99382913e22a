#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/eval/evaluator.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/model_source.h"
#include "experiments/score_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

const Dataset& ChooseSplit(const Splits& splits, const std::string& name) {
  if (name == "test") return splits.test();
  if (name == "validation") return splits.validation();
  if (name == "train") return splits.train();
  throw Error(ErrorKind::kUsage, Str("unknown split '", name, "'"),
              "one of test, validation, train");
}

/// What the network is judged by, and the network it is compared with where that needs one.
Task ReadTask(const Arguments& arguments, const Dataset& samples, const Network& network) {
  const TaskConfig config{.loss = arguments.Text("loss"), .metric = arguments.Text("metric")};
  if (arguments.Text("uncut").empty()) {
    Task task = MakeTask(config, samples, network);
    if (task.compares())
      throw Error(ErrorKind::kUsage,
                  Str("metric '", task.metric, "' and loss '", task.loss,
                      "' compare with the uncut network"),
                  "name it: --uncut MODEL");
    return task;
  }
  return MakeTask(config, samples,
                  LoadModelSource(ParseModelWord(arguments.Text("uncut")), 0).network);
}

int RunEval(const Arguments& arguments) {
  const ModelConfig model = ReadModelOptions(arguments);
  DataConfig data = ReadDataOptions(arguments);
  const at::Device device = ParseDevice(arguments.Text("device"));
  ModelSource source = LoadModelSource(model, 0);
  SettleNormalisation(source, data);
  const Splits splits = Splits::Load(data, &source.network);
  const Dataset& samples = ChooseSplit(splits, arguments.Text("split"));
  if (samples.count() == 0)
    throw Error(ErrorKind::kUsage, Str("the ", arguments.Text("split"), " split is empty"));
  const Task task = ReadTask(arguments, samples, source.network);
  source.network.store = source.network.store.To(device);
  EvalOptions options;
  options.batch_size = arguments.Integer("batch");
  options.limit = arguments.Integer("limit");
  options.fast = !arguments.Has("plain");
  if (options.batch_size < 1 || options.limit < 0)
    throw Error(ErrorKind::kUsage, "--batch must be at least 1 and --limit at least 0");
  const Score score = Evaluate(source.network, samples, task, options);
  ordered_json row = ScoreToJson(score);
  const double per_second =
      score.seconds > 0 ? static_cast<double>(score.samples) / score.seconds : 0;
  if (arguments.json()) {
    row["samples_per_s"] = per_second;
    if (row.contains("images")) row["images_per_s"] = per_second;
    row["model"] = arguments.positional()[0];
    row["data"] = data.name;
    row["split"] = arguments.Text("split");
    PrintJson(row);
  } else {
    Print(Str(MetricTitle(score.metric), " ", FigureText(row), " on ", score.samples,
              " samples of ", data.name, ", loss ", Fixed(score.loss, 4), ", ",
              Fixed(per_second, 0), " samples/s\n"));
  }
  return 0;
}

void AddOptions(OptionList& add) {
  AddDataOptions(add);
  AddModelOptions(add);
  add.Text("metric", "NAME", "", "espalier list metrics; default: as for [task] of a run");
  add.Text("loss", "NAME", "", "espalier list losses; default: as for [task] of a run");
  add.Text("uncut", "MODEL", "",
           "the network that agreement and other label-free metrics compare with");
  add.Text("split", "SPLIT", "test", "test, validation or train");
  add.Integer("batch", "N", 250, "samples at a time");
  add.Integer("limit", "N", 0, "only the first N samples; 0 = all");
  add.Flag("plain", "run the network op by op, without the inference rewrite");
  add.Text("device", "DEVICE", "auto", "auto, cpu, cuda or cuda:N");
}

}  // namespace

const Command kEvalCommand = {
    .name = "eval",
    .usage = "MODEL",
    .summary = "accuracy or another metric, with its standard error",
    .detail =
        "MODEL is FILE.pt2, NAME or NAME:weights.safetensors of a built-in network, or a\n"
        "TorchScript file, which needs --input-shape or --input.",
    .examples = {"espalier eval resnet20:experiments/weights/resnet20_cifar10.safetensors",
                 "espalier eval runs/quickstart/best/model.pt2 --data cifar10 --json"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunEval};

}  // namespace espalier
