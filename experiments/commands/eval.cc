#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/eval/evaluator.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/model_source.h"

namespace espalier {
namespace {

const ImageSet& ChooseSplit(const Splits& splits, const std::string& name) {
  if (name == "test") return splits.test();
  if (name == "validation") return splits.validation();
  if (name == "train") return splits.train();
  throw Error(ErrorKind::kUsage, Str("unknown split '", name, "'"),
              "one of test, validation, train");
}

int RunEval(const Arguments& arguments) {
  const ModelConfig model = ReadModelOptions(arguments);
  DataConfig data = ReadDataOptions(arguments);
  const at::Device device = ParseDevice(arguments.Text("device"));
  ModelSource source = LoadModelSource(model, 0);
  SettleNormalisation(source, data);
  const Splits splits = Splits::Load(data);
  const ImageSet& images = ChooseSplit(splits, arguments.Text("split"));
  if (images.count() == 0)
    throw Error(ErrorKind::kUsage, Str("the ", arguments.Text("split"), " split is empty"));
  source.network.store = source.network.store.To(device);
  EvalOptions options;
  options.batch_size = arguments.Integer("batch");
  options.limit = arguments.Integer("limit");
  options.fast = !arguments.Has("plain");
  if (options.batch_size < 1 || options.limit < 0)
    throw Error(ErrorKind::kUsage, "--batch must be at least 1 and --limit at least 0");
  const Accuracy accuracy = Evaluate(source.network, splits, images, options);
  const double images_per_s =
      accuracy.seconds > 0 ? static_cast<double>(accuracy.images) / accuracy.seconds : 0;
  if (arguments.json()) {
    PrintJson({{"accuracy", accuracy.value},
               {"standard_error", accuracy.standard_error},
               {"images", accuracy.images},
               {"images_per_s", images_per_s},
               {"loss", accuracy.loss},
               {"model", arguments.positional()[0]},
               {"data", data.name},
               {"split", arguments.Text("split")}});
  } else {
    Print(Str("accuracy ", Percent(accuracy.value), " +- ", Percent(accuracy.standard_error),
              " on ", accuracy.images, " images of ", data.name, ", loss ", Fixed(accuracy.loss, 4),
              ", ", Fixed(images_per_s, 0), " images/s\n"));
  }
  return 0;
}

void AddOptions(OptionList& add) {
  AddDataOptions(add);
  AddModelOptions(add);
  add.Text("split", "SPLIT", "test", "test, validation or train");
  add.Integer("batch", "N", 250, "images at a time");
  add.Integer("limit", "N", 0, "only the first N images; 0 = all");
  add.Flag("plain", "run the network op by op, without the inference rewrite");
  add.Text("device", "DEVICE", "auto", "auto, cpu, cuda or cuda:N");
}

}  // namespace

const Command kEvalCommand = {
    .name = "eval",
    .usage = "MODEL",
    .summary = "accuracy with its standard error",
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
