#include "experiments/verify_delivery.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/eval/evaluator.h"
#include "env/graph/generator_scope.h"
#include "env/graph/io.h"
#include "env/graph/sample_inputs.h"
#include "env/space/masked_reference.h"
#include "experiments/delivery.h"
#include "experiments/run_folder.h"
#include "experiments/score_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

/// The sizes of everything stored, to compare two networks' shapes.
std::map<std::string, std::vector<int64_t>> Shapes(const ParameterStore& store) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& name : store.CanonicalNames())
    if (store.Kind(name) != StoreKind::kConstant) shapes[name] = store.Get(name).sizes().vec();
  return shapes;
}

std::string DifferingShape(const ParameterStore& expected, const ParameterStore& found) {
  const auto want = Shapes(expected);
  const auto have = Shapes(found);
  for (const auto& [name, sizes] : want) {
    if (name.ends_with("num_batches_tracked")) continue;
    const auto other = have.find(name);
    if (other == have.end()) return Str("'", name, "' is missing");
    if (other->second != sizes)
      return Str("'", name, "' is ", at::IntArrayRef(other->second), ", the plan makes ",
                 at::IntArrayRef(sizes));
  }
  return "";
}

/// Largest difference of any output, relative to that output, at batch 2.
double ForwardDifference(const Network& a, const Network& b) {
  const at::NoGradGuard no_grad;
  const auto run = [inputs = RandomInputs(a, 2, 0)](const Network& network) {
    const GeneratorScope same_draws(network.graph);
    const Executor executor(network.graph);
    return executor.Run(executor.Bind(network.store), inputs);
  };
  const std::vector<Tensor> left = run(a), right = run(b);
  if (left.size() != right.size()) return 1;
  double worst = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    if (left[i].sizes() != right[i].sizes()) return 1;
    if (left[i].numel() == 0) continue;
    const Tensor x = left[i].to(at::kDouble), y = right[i].to(at::kDouble);
    const double difference = (x - y).abs().max().item<double>();
    worst = std::max(worst, difference / std::max(1e-12, x.abs().max().item<double>()));
  }
  return worst;
}

ModelSource LoadSource(CutSource& source, const std::string& model) {
  if (!model.empty()) {
    const ModelConfig other = ParseModelWord(model);
    source.model.name = other.name;
    source.model.weights = other.weights;
    source.model.file = other.file;
  }
  for (const std::string& file : {source.model.weights, source.model.file})
    if (!file.empty() && !fs::exists(file))
      throw Error(ErrorKind::kIo, Str("the source network '", file, "' is not there"),
                  "say where it is now: espalier verify DIR --model MODEL");
  return LoadModelSource(source.model, source.seed);
}

class Verifier {
 public:
  Verifier(const fs::path& folder, const std::string& model, const std::optional<DataConfig>& data)
      : folder_(folder),
        data_(data),
        saved_(ReadCertificate(folder / "certificate.json")),
        base_(LoadSource(saved_.source, model)) {}

  VerifyReport Run() {
    Check("source file", base_.file_sha256 == saved_.source.file_sha256,
          base_.weights_file.empty() ? "seeded random weights" : base_.weights_file);
    CheckFiles();
    const Space space = BuildSpace(base_.network, ToOptions(saved_.source.space));
    const Plan plan = ReadSavedPlan(folder_ / "plan.json").plan;
    const Selection selection = SelectionOf(space, plan);
    Check("plan follows from its groups", Parts(MakePlan(space, selection)) == Parts(plan),
          Str(plan.kept.size(), " parameters, ", plan.edits.size(), " literal edits"));
    const Network cut = Cut(space.network(), plan);
    CheckProof(space, selection, plan, cut);
    if (data_) CheckFigures(space, selection, cut);
    CheckNetworks(cut);
    return std::move(report_);
  }

 private:
  void Check(const std::string& name, bool passed, const std::string& detail) {
    report_.checks.push_back({{"name", name}, {"passed", passed}, {"detail", detail}});
    report_.passed = report_.passed && passed;
  }

  static std::string Parts(const Plan& plan) {
    const auto json = ToJson(plan);
    return Str(json["kept"].dump(), json["edits"].dump(), json["renumbered"].dump());
  }

  void CheckFiles() {
    std::string changed;
    for (const auto& name : DeliveredFiles()) {
      if (!fs::exists(folder_ / name))
        throw Error(ErrorKind::kIo, Str("'", (folder_ / name).string(), "' is missing"),
                    "the folder is not whole: cut again, or copy it again");
      const auto found = saved_.files.find(name);
      if (found == saved_.files.end() || found->second != Sha256OfFile(folder_ / name))
        changed += (changed.empty() ? "changed: " : ", ") + name;
    }
    Check("files as they were written", changed.empty(),
          changed.empty() ? Str(DeliveredFiles().size(), " files") : changed);
  }

  void CheckProof(const Space& space, const Selection& selection, const Plan& plan,
                  const Network& cut) {
    report_.certificate = Certify(space, selection, plan, cut, saved_.source.seed);
    const Certificate &now = report_.certificate, &before = saved_.certificate;
    Check("masked == cut", now.passed,
          now.passed ? Str("relative error ", now.max_rel_error, " (", now.max_rel_error_f64,
                           " in double), ", now.invariance_units, " units overwritten with noise")
                     : now.failure);
    Check("hashes of source, plan and cut",
          now.source_sha256 == before.source_sha256 && now.pruned_sha256 == before.pruned_sha256 &&
              now.plan_sha256 == before.plan_sha256,
          Str("cut ", now.pruned_sha256.substr(0, 12)));
  }

  void CheckFigures(const Space& space, const Selection& selection, const Network& cut) {
    DataConfig config = *data_;
    SettleNormalisation(base_, config);
    const Splits splits = Splits::Load(config, &base_.network);
    const Task task = MakeTask({}, splits.test(), base_.network);
    const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
    const Score masked =
        Evaluate(MaskedReference(space, mask), splits.test(), task, {.fast = false});
    const Score pruned = Evaluate(cut, splits.test(), task, {.fast = false});
    constexpr double kHundredthOfAPoint = 1e-4;
    Check(Str(task.metric, " of masked and cut network"),
          std::abs(masked.value - pruned.value) <= kHundredthOfAPoint,
          Str(FigureText(task.metric, masked.value), " and ", FigureText(task.metric, pruned.value),
              " on ", pruned.samples, " test samples"));
  }

  void CheckNetworks(const Network& cut) {
    const Network archive = ReadPt2(folder_ / "model.pt2");
    const std::string shape = DifferingShape(cut.store, archive.store);
    Check("shapes of model.pt2", shape.empty(), shape.empty() ? "as the plan makes them" : shape);
    Network stored = cut;
    stored.store = cut.store.Clone();
    LoadWeights(folder_ / "weights.safetensors", stored.store);
    Check("hash of weights.safetensors", stored.WeightsHash() == saved_.weights_sha256,
          saved_.weights_sha256.substr(0, 12));
    const double difference = shape.empty() ? ForwardDifference(stored, archive) : 1;
    Check("model.pt2 computes what the weights say", difference <= 1e-6,
          Str("relative difference ", difference));
    // Counted afresh from the file, not from the polynomials of the uncut network.
    const Space delivered = BuildSpace(archive);
    const Cost recount = CostModel(delivered).Full();
    Check("cost of model.pt2", recount.macs == saved_.macs && recount.params == saved_.params,
          Str(static_cast<int64_t>(recount.macs), " MACs, ", static_cast<int64_t>(recount.params),
              " parameters"));
  }

  const fs::path folder_;
  const std::optional<DataConfig> data_;
  SavedCertificate saved_;
  const ModelSource base_;
  VerifyReport report_;
};

}  // namespace

VerifyReport VerifyDelivery(const fs::path& folder, const std::string& model,
                            const std::optional<DataConfig>& data) {
  return Verifier(folder, model, data).Run();
}

}  // namespace espalier
