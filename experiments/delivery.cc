#include "experiments/delivery.h"

#include <cmath>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/io.h"
#include "experiments/run_folder.h"
#include "experiments/version.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

ordered_json SourceToJson(const CutSource& source) {
  const auto absolute = [](const std::string& path) {
    return path.empty() ? path : fs::absolute(path).lexically_normal().string();
  };
  return {{"name", source.model.name},
          {"weights", absolute(source.model.weights)},
          {"file", absolute(source.model.file)},
          {"input", absolute(source.model.input)},
          {"input_shape", source.model.input_shape},
          {"shortcut", source.model.shortcut},
          {"classes", source.model.classes},
          {"seed", source.seed},
          {"file_sha256", source.file_sha256},
          {"decouple_residuals", source.space.decouple_residuals},
          {"exclude", source.space.exclude},
          {"attention", source.space.attention}};
}

CutSource SourceFromJson(const ordered_json& json) {
  CutSource source;
  source.model.name = json.at("name");
  source.model.weights = json.at("weights");
  source.model.file = json.at("file");
  source.model.input = json.value("input", "");
  source.model.input_shape = json.value("input_shape", "");
  source.model.shortcut = json.at("shortcut");
  source.model.classes = json.at("classes");
  source.seed = json.at("seed");
  source.file_sha256 = json.at("file_sha256");
  source.space.decouple_residuals = json.at("decouple_residuals");
  source.space.exclude = json.at("exclude").get<std::vector<std::string>>();
  source.space.attention = json.value("attention", "dims");
  return source;
}

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

/// Costs at whole counts are whole numbers.
int64_t Whole(double cost) { return std::llround(cost); }

double ForwardDifference(const Network& a, const Network& b) {
  const auto& input = a.graph.inputs.at(0);
  auto sizes = input.sizes;
  if (input.dynamic_batch) sizes[0] = 2;
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  const Tensor x = at::arange(count, at::kFloat).mul(0.7).sin().reshape(sizes);
  const at::NoGradGuard no_grad;
  const Tensor y = Forward(a, x);
  return (y - Forward(b, x)).abs().max().item<double>() /
         std::max(1e-12, y.abs().max().item<double>());
}

}  // namespace

ordered_json CostTable(const CostModel& cost, const Selection& selection) {
  const auto counts = KeptCounts(selection);
  const std::vector<double> kept(counts.begin(), counts.end());
  ordered_json table;
  Cost before, after;
  for (const auto convention : {Convention::kCanonical, Convention::kThop, Convention::kAutobot}) {
    before = cost.Full(convention);
    after = cost.Evaluate(kept, convention);
    table[ConventionName(convention)] = {{"macs", {Whole(before.macs), Whole(after.macs)}},
                                         {"params", {Whole(before.params), Whole(after.params)}}};
  }
  table["activation_bytes"] = {Whole(before.activation_bytes), Whole(after.activation_bytes)};
  return table;
}

void WriteDelivery(const fs::path& folder, const Delivery& delivery) {
  Network network = delivery.network;
  const ordered_json note = {{"made_by", Str("espalier ", kVersion)},
                             {"pruned_from", delivery.plan.source_name},
                             {"normalisation", delivery.normalisation}};
  network.extras["extra/espalier.json"] = note.dump();
  WritePt2(folder / "model.pt2", network);
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {"pruned_from", delivery.plan.source_name}};
  if (!delivery.normalisation.empty()) metadata["normalisation"] = delivery.normalisation;
  SaveWeights(folder / "weights.safetensors", network.store, metadata);
  WriteStateDict(folder / "state_dict.pt", network.store);

  ordered_json plan = ordered_json::parse(ToJson(delivery.plan).dump());
  plan["cost"] = delivery.cost.at("canonical");
  WriteFileAtomic(folder / "plan.json", plan.dump() + "\n");

  ordered_json certificate = ordered_json::parse(ToJson(delivery.certificate).dump());
  certificate["cost"] = delivery.cost;
  certificate["source"] = SourceToJson(delivery.source);
  certificate["delivered"] = {
      {"weights_sha256", network.WeightsHash()},
      {"trained_after_cut", network.WeightsHash() != delivery.cut.WeightsHash()}};
  WriteJson(folder / "certificate.json", certificate);
}

Selection SelectionOf(const Space& space, const Plan& plan) {
  Selection selection(space.groups().size());
  for (const auto& group : plan.groups) {
    const int32_t index = space.FindGroup(group.name);
    if (index < 0)
      throw Error(ErrorKind::kModel,
                  Str("the plan names group '", group.name, "', which this network does not have"));
    selection[static_cast<size_t>(index)] = group.kept;
  }
  for (size_t group = 0; group < selection.size(); ++group)
    if (selection[group].empty())
      throw Error(ErrorKind::kModel,
                  Str("the plan says nothing about group '", space.groups()[group].name, "'"));
  return selection;
}

VerifyReport VerifyDelivery(const fs::path& folder, const std::string& model) {
  VerifyReport report;
  const auto check = [&](const std::string& name, bool passed, const std::string& detail) {
    report.checks.push_back({{"name", name}, {"passed", passed}, {"detail", detail}});
    report.passed = report.passed && passed;
  };
  const ordered_json saved = ReadJson(folder / "certificate.json");
  CutSource source;
  Certificate before;
  ordered_json delivered, cost;
  try {
    source = SourceFromJson(saved.at("source"));
    before = CertificateFromJson(nlohmann::json::parse(saved.dump()));
    delivered = saved.at("delivered");
    cost = saved.at("cost");
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::kIo, Str("'", (folder / "certificate.json").string(),
                                    "' is not a certificate of this program: ", error.what()));
  }
  if (!model.empty()) {
    const ModelConfig other = ParseModelWord(model);
    source.model.name = other.name;
    source.model.weights = other.weights;
    source.model.file = other.file;
  }
  const ModelSource base = LoadModelSource(source.model, source.seed);
  check("source file", base.file_sha256 == source.file_sha256,
        base.weights_file.empty() ? "seeded random weights" : base.weights_file);

  const Space space = BuildSpace(base.network, ToOptions(source.space));
  const Plan plan =
      PlanFromJson(nlohmann::json::parse(ReadFile(folder / "plan.json"), nullptr, true));
  const Selection selection = SelectionOf(space, plan);
  const auto parts = [](const Plan& p) {
    const auto json = ToJson(p);
    return Str(json["kept"].dump(), json["edits"].dump());
  };
  check("plan follows from its groups", parts(MakePlan(space, selection)) == parts(plan),
        Str(plan.kept.size(), " parameters, ", plan.edits.size(), " literal edits"));

  const Network cut = Cut(space.network(), plan);
  report.certificate = Certify(space, selection, plan, cut, source.seed);
  const Certificate& now = report.certificate;
  check("masked == cut", now.passed,
        now.passed ? Str("relative error ", now.max_rel_error, " (", now.max_rel_error_f64,
                         " in double), ", now.invariance_units, " units overwritten with noise")
                   : now.failure);
  check("hashes of source, plan and cut",
        now.source_sha256 == before.source_sha256 && now.pruned_sha256 == before.pruned_sha256 &&
            now.plan_sha256 == before.plan_sha256,
        Str("cut ", now.pruned_sha256.substr(0, 12)));

  const Network archive = ReadPt2(folder / "model.pt2");
  const std::string shape = DifferingShape(cut.store, archive.store);
  check("shapes of model.pt2", shape.empty(), shape.empty() ? "as the plan makes them" : shape);
  Network stored = cut;
  stored.store = cut.store.Clone();
  LoadWeights(folder / "weights.safetensors", stored.store);
  check("hash of weights.safetensors",
        stored.WeightsHash() == delivered.at("weights_sha256").get<std::string>(),
        delivered.at("weights_sha256").get<std::string>().substr(0, 12));
  const double difference = shape.empty() ? ForwardDifference(stored, archive) : 1;
  check("model.pt2 computes what the weights say", difference <= 1e-6,
        Str("relative difference ", difference));

  // Counted afresh from the file, not from the polynomials of the uncut network.
  const Space delivered_space = BuildSpace(archive);
  const Cost recount = CostModel(delivered_space).Full();
  const double macs = cost.at("canonical").at("macs").at(1);
  const double params = cost.at("canonical").at("params").at(1);
  check("cost of model.pt2", recount.macs == macs && recount.params == params,
        Str(static_cast<int64_t>(recount.macs), " MACs, ", static_cast<int64_t>(recount.params),
            " parameters"));
  return report;
}

}  // namespace espalier
