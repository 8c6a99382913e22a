#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "env/base/error.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/verify_delivery.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

fs::path DeliveryFolder(const fs::path& folder) {
  for (const auto& candidate : {folder, folder / "best"})
    if (fs::exists(candidate / "certificate.json")) return candidate;
  throw Error(
      ErrorKind::kIo, Str("'", folder.string(), "' has no certificate.json, nor has its best/"),
      fs::exists(folder / "resolved.toml") ? "the run is not finished: run the same line again"
                                           : "give the folder of a run or of espalier prune");
}

int RunVerify(const Arguments& arguments) {
  const fs::path folder = DeliveryFolder(arguments.positional()[0]);
  std::optional<DataConfig> data;
  if (arguments.Has("data")) data = ReadDataOptions(arguments);
  const VerifyReport report = VerifyDelivery(folder, arguments.Text("model"), data);
  if (arguments.json()) {
    PrintJson({{"folder", folder.string()},
               {"passed", report.passed},
               {"max_rel_error", report.certificate.max_rel_error},
               {"checks", report.checks}});
  } else {
    TextTable table({});
    for (const auto& check : report.checks)
      table.Add({check["passed"] ? "ok" : "FAILED", check["name"], check["detail"]});
    Print(table.Text());
  }
  if (report.passed) return 0;
  std::string failed;
  for (const auto& check : report.checks)
    if (!check["passed"])
      failed +=
          Str("\n  ", check["name"].get<std::string>(), ": ", check["detail"].get<std::string>());
  throw Error(ErrorKind::kModel, Str("'", folder.string(), "' does not hold:", failed),
              "the files were changed after they were made, or are not from this source");
}

void AddOptions(OptionList& add) {
  add.Text("model", "MODEL", "", "the source network, when it is not where it was");
  AddDataOptions(add);
}

}  // namespace

const Command kVerifyCommand = {
    .name = "verify",
    .usage = "DIR",
    .summary = "re-check a certificate",
    .detail =
        "Makes the plan, the cut and the certificate again from the source weights and compares\n"
        "hashes, shapes, outputs and cost of what lies in DIR. With --data the masked source "
        "network\n"
        "and the cut one are also measured on the test samples: the figures have to agree.",
    .examples = {"espalier verify runs/quickstart", "espalier verify /tmp/pruned --json",
                 "espalier verify runs/quickstart --data cifar10"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunVerify};

}  // namespace espalier
