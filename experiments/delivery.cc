#include "experiments/delivery.h"

#include <algorithm>
#include <cmath>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/checked_json.h"
#include "env/graph/io.h"
#include "env/graph/sample_inputs.h"
#include "experiments/run_folder.h"
#include "experiments/version.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

ordered_json SpaceToJson(const SpaceConfig& space) {
  return {{"decouple_residuals", space.decouple_residuals},
          {"exclude", space.exclude},
          {"attention", space.attention},
          {"depth", space.depth}};
}

std::vector<std::string> TextsOf(const nlohmann::json& list) {
  if (!list.is_array()) throw Error(ErrorKind::kModel, "a list of texts is expected");
  std::vector<std::string> texts;
  for (const auto& item : list) texts.push_back(TextOf(item));
  return texts;
}

std::string AttentionOf(const nlohmann::json& value) {
  const std::string& text = TextOf(value);
  if (text != "dims" && text != "heads" && text != "both")
    throw Error(ErrorKind::kModel, "dims, heads or both is expected");
  return text;
}

uint64_t SeedOf(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) throw Error(ErrorKind::kModel, "it is no seed");
  return value.get<uint64_t>();
}

/// Two whole numbers as {before, after}.
std::pair<int64_t, int64_t> CostOf(const nlohmann::json& list) {
  if (!list.is_array() || list.size() != 2)
    throw Error(ErrorKind::kModel, "two whole numbers are expected");
  return {IntOf(list[0]), IntOf(list[1])};
}

SpaceConfig SpaceFromJson(const nlohmann::json& json) {
  SpaceConfig space{.decouple_residuals = JsonMember(json, "decouple_residuals", BoolOf),
                    .exclude = JsonMember(json, "exclude", TextsOf)};
  if (json.contains("attention"))  // absent in files made before heads could be cut
    space.attention = JsonMember(json, "attention", AttentionOf);
  if (json.contains("depth")) space.depth = JsonMember(json, "depth", BoolOf);
  return space;
}

fs::path Absolute(const fs::path& path) { return fs::absolute(path).lexically_normal(); }

/// Paths as they are, and as seen from the folder, so that both can move together.
ordered_json SourceToJson(const CutSource& source, const fs::path& folder) {
  ordered_json json = {{"name", source.model.name}};
  for (const auto& [key, path] :
       {std::pair("weights", source.model.weights), std::pair("file", source.model.file),
        std::pair("input", source.model.input)}) {
    json[key] = path.empty() ? "" : Absolute(path).string();
    json[Str(key, "_relative")] =
        path.empty() ? "" : Absolute(path).lexically_relative(Absolute(folder)).string();
  }
  json.update({{"input_shape", source.model.input_shape},
               {"shortcut", source.model.shortcut},
               {"classes", source.model.classes},
               {"seed", source.seed},
               {"file_sha256", source.file_sha256}});
  json.update(SpaceToJson(source.space));
  return json;
}

/// What MakePlan asks of a selection, as an error of the plan's file.
void CheckKept(const Group& group, const Plan::GroupKept& planned) {
  const std::string fault =
      planned.units == group.units
          ? SelectionFault(group, planned.kept)
          : Str("has ", planned.units, " units, this network's has ", group.units);
  if (!fault.empty())
    throw Error(ErrorKind::kModel, Str("the plan's group '", group.name, "' ", fault),
                "is this the plan of another network?");
}

/// Costs at whole counts are whole numbers.
int64_t Whole(double cost) { return std::llround(cost); }

}  // namespace

CutSource SourceOf(const ModelSource& model, uint64_t seed, const SpaceOptions& options) {
  return {.model = model.config,
          .seed = seed,
          .space = {.decouple_residuals = options.decouple_residuals,
                    .exclude = options.exclude,
                    .attention = options.attention,
                    .depth = options.depth},
          .file_sha256 = model.file_sha256};
}

CutSource SourceFromJson(const nlohmann::json& json, const fs::path& folder) {
  const auto path = [&](const std::string& key) -> std::string {
    const std::string recorded = JsonMember(json, key.c_str(), TextOf);
    std::error_code unusable;  // names no file system takes
    if (recorded.empty() || fs::exists(recorded, unusable) || !json.contains(key + "_relative"))
      return recorded;
    const std::string relative = JsonMember(json, (key + "_relative").c_str(), TextOf);
    const auto moved = (folder / relative).lexically_normal();
    return fs::exists(moved, unusable) ? moved.string() : recorded;
  };
  CutSource source;
  source.model.name = JsonMember(json, "name", TextOf);
  source.model.weights = path("weights");
  source.model.file = path("file");
  source.model.input = path("input");
  source.model.input_shape = JsonMember(json, "input_shape", TextOf);
  source.model.shortcut = JsonMember(json, "shortcut", TextOf);
  source.model.classes = JsonMember(json, "classes", IntOf);
  if (source.model.classes < 0) throw Error(ErrorKind::kModel, "'classes' is negative");
  source.seed = JsonMember(json, "seed", SeedOf);
  source.file_sha256 = JsonMember(json, "file_sha256", TextOf);
  source.space = SpaceFromJson(json);
  return source;
}

void DeliverCut(const fs::path& out, const CutOrder& order, ordered_json& json,
                const std::function<void(const std::string&)>& lap) {
  const StreamedCut cut = CutStreamed(order.space.network(), order.plan);
  lap("surgery");
  const Certificate certificate = CertifyOrThrow(out, order.space, order.selection, order.plan,
                                                 cut.network, order.seed, cut.load);
  lap("certificate");
  WriteDelivery(out, {.network = cut.network,
                      .load = cut.load,
                      .plan = order.plan,
                      .certificate = certificate,
                      .cost = json["cost"],
                      .source = SourceOf(order.source, order.seed, order.options),
                      .normalisation = order.source.Normalisation()});
  lap("write");
  json["out"] = out.string();
  json["certificate"] = {{"max_rel_error", certificate.max_rel_error},
                         {"passed", certificate.passed}};
}

ordered_json CostTable(const Space& space, const CostModel& cost, const Selection& selection) {
  ordered_json table;
  Cost before, after;
  for (const auto convention : {Convention::kCanonical, Convention::kThop, Convention::kAutobot}) {
    before = cost.Full(convention);
    after = cost.Of(space, selection, convention);
    table[ConventionName(convention)] = {{"macs", {Whole(before.macs), Whole(after.macs)}},
                                         {"params", {Whole(before.params), Whole(after.params)}}};
  }
  table["activation_bytes"] = {Whole(before.activation_bytes), Whole(after.activation_bytes)};
  if (cost.latency()) table["latency_ms"] = {before.latency_ms, after.latency_ms};  // predicted
  return table;
}

void CheckOutFolder(const fs::path& out) {
  if (fs::exists(out) && !fs::is_directory(out))
    throw Error(ErrorKind::kUsage, Str("'", out.string(), "' is a file, not a folder"));
}

const std::vector<std::string>& DeliveredFiles() {
  static const std::vector<std::string> kFiles = {"model.pt2", "weights.safetensors",
                                                  "state_dict.pt", "plan.json"};
  return kFiles;
}

void WritePlan(const fs::path& file, const Plan& plan, const SpaceConfig& space,
               const ordered_json& cost) {
  ordered_json json = ordered_json::parse(ToJson(plan).dump());
  for (size_t i = 0; i < plan.edits.size(); ++i)  // where an eager model has the number
    json["edits"][i]["module"] = plan.edits[i].module;
  json["space"] = SpaceToJson(space);
  json["cost"] = cost.at("canonical");
  WriteFileAtomic(file, json.dump() + "\n");
}

void WriteDelivery(const fs::path& folder, const Delivery& delivery) {
  Network network = delivery.network;
  const ordered_json note = {{"made_by", Str("espalier ", kVersion)},
                             {"pruned_from", delivery.plan.source_name},
                             {"normalisation", delivery.normalisation}};
  network.extras["extra/espalier.json"] = note.dump();
  const TensorLoader load = delivery.load ? delivery.load : LoaderOf(network.store);
  WritePt2(folder / "model.pt2", network, load);
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {"pruned_from", delivery.plan.source_name}};
  if (!delivery.normalisation.empty()) metadata["normalisation"] = delivery.normalisation;
  SaveWeights(folder / "weights.safetensors", network.store, metadata, load);
  WriteStateDict(folder / "state_dict.pt", network.store, load);

  WritePlan(folder / "plan.json", delivery.plan, delivery.source.space, delivery.cost);

  ordered_json certificate = ordered_json::parse(ToJson(delivery.certificate).dump());
  certificate["cost"] = delivery.cost;
  certificate["source"] = SourceToJson(delivery.source, folder);
  const std::string hash = WeightsHash(network.store, load);
  certificate["delivered"] = {{"weights_sha256", hash},
                              {"trained_after_cut", hash != delivery.certificate.pruned_sha256}};
  for (const auto& file : DeliveredFiles())
    certificate["delivered"]["files"][file] = Sha256OfFile(folder / file);
  WriteJson(folder / "certificate.json", certificate);
}

Certificate CertifyOrThrow(const fs::path& folder, const Space& space, const Selection& selection,
                           const Plan& plan, const Network& cut, uint64_t seed,
                           const TensorLoader& load) {
  Certificate certificate;
  try {
    certificate = Certify(space, selection, plan, cut, seed, load);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel) throw;
    certificate.failure = error.message();  // the cut network does not even run
  }
  const fs::path file = folder / "failure.json";
  if (certificate.passed) {
    fs::remove(file);  // of an earlier attempt
    return certificate;
  }
  ordered_json report = ordered_json::parse(ToJson(certificate).dump());
  report["plan"] = ordered_json::parse(ToJson(plan).dump());
  WriteJson(file, report);
  throw Error(ErrorKind::kInternal, Str("the cut is not proven: ", certificate.failure),
              Str("no network was written; please report this with '", file.string(), "'"));
}

SavedPlan ReadSavedPlan(const fs::path& file) {
  const nlohmann::json json = ReadCheckedJson(file);
  try {
    SavedPlan saved{PlanFromJson(json), std::nullopt};
    if (json.contains("space")) saved.space = JsonMember(json, "space", SpaceFromJson);
    return saved;
  } catch (const Error& error) {
    throw Error(ErrorKind::kModel, Str("'", file.string(), "': ", error.message()), error.hint());
  }
}

SavedCertificate ReadCertificate(const fs::path& path) {
  const nlohmann::json json = ReadCheckedJson(path);
  try {
    SavedCertificate saved;
    saved.certificate = CertificateFromJson(json);
    saved.source = JsonMember(json, "source", [&](const nlohmann::json& source) {
      return SourceFromJson(source, path.parent_path());
    });
    saved.weights_sha256 = JsonMember(JsonMember(json, "delivered"), "weights_sha256", TextOf);
    for (const auto& [name, hash] : JsonMember(JsonMember(json, "delivered"), "files").items())
      saved.files[name] = TextOf(hash);
    const nlohmann::json& cost = JsonMember(JsonMember(json, "cost"), "canonical");
    saved.macs = JsonMember(cost, "macs", CostOf).second;
    saved.params = JsonMember(cost, "params", CostOf).second;
    return saved;
  } catch (const Error& error) {
    throw Error(ErrorKind::kModel, Str("'", path.string(), "': ", error.message()),
                "is it a certificate of this program?");
  }
}

Selection SelectionOf(const Space& space, const Plan& plan) {
  Selection selection(space.groups().size());
  std::vector<bool> known(selection.size());
  for (const auto& group : plan.groups) {
    const int32_t index = space.FindGroup(group.name);
    if (index < 0)
      throw Error(ErrorKind::kModel,
                  Str("the plan names group '", group.name, "', which this network does not have"),
                  "is this the plan of another network, or of other --exclude patterns?");
    CheckKept(space.groups()[static_cast<size_t>(index)], group);
    selection[static_cast<size_t>(index)] = group.kept;
    known[static_cast<size_t>(index)] = true;
  }
  for (size_t group = 0; group < selection.size(); ++group)
    if (!known[group])
      throw Error(ErrorKind::kModel,
                  Str("the plan says nothing about group '", space.groups()[group].name, "'"));
  return selection;
}

}  // namespace espalier
