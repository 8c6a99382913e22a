#include "experiments/pipeline.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "criteria/regularisers/regulariser.h"
#include "env/base/clock.h"
#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/graph/io.h"
#include "env/train/trainer.h"
#include "experiments/command_line.h"
#include "experiments/data_options.h"
#include "experiments/delivery.h"
#include "experiments/epoch_log.h"
#include "experiments/progress_line.h"
#include "experiments/report.h"
#include "experiments/score_histogram.h"
#include "experiments/score_json.h"
#include "experiments/space_json.h"
#include "experiments/verify_delivery.h"
#include "search/matched_features.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

Network On(at::Device device, const Network& network) {
  Network moved = network;
  moved.store = network.store.To(device);
  return moved;
}

ordered_json Ordered(const nlohmann::json& json) { return ordered_json::parse(json.dump()); }

/// The Space of what `space` holds with other weights. Its network is rewritten already, and
/// decoupling it again could take apart additions that only their rewrite made fit for that.
Space WithWeightsOf(const Network& trained, const Space& space, SpaceOptions options) {
  options.decouple_residuals = false;
  Space again = BuildSpace(trained, options);
  const auto shape = [](const Group& group) { return std::pair(group.name, group.units); };
  ESPALIER_CHECK(std::ranges::equal(space.groups(), again.groups(), {}, shape, shape),
                 "the trained network has other groups than the one that was searched");
  return again;
}

}  // namespace

Pipeline::Pipeline(const RunConfig& config, const std::filesystem::path& folder)
    : config_(config), device_(UseDevice(config.run)), data_(config.data) {
  source_ = LoadModelSource(config.model, static_cast<uint64_t>(config.run.seed));
  SettleNormalisation(source_, data_);
  latency_file_ = folder / "latency.json";
  UseWeights(source_.network);
  splits_ = Splits::Load(data_, &source_.network);
  if (splits_->test().count() == 0)
    throw Error(ErrorKind::kConfig, "there are no test samples for the final measurement",
                "data.test is what is held out for it");
  // The space's copy: its graph is that of every cut, so that values inside both can be compared.
  task_ = MakeTask(config.task, splits_->train(), space_->network());
  splits_ = splits_->To(device_);
  for (const TrainConfig* train : {&config.sparsify.train, &config.finetune})
    Objective(train->loss.empty() ? task_.loss : train->loss,
              {.label_smoothing = train->label_smoothing});
  MakeRegulariser(config.sparsify.regulariser);
}

void Pipeline::UseWeights(const Network& network) {
  budget_.reset(), cost_.reset();
  space_ = PrunableSpace(network, ToOptions(config_.space));
  cost_.emplace(*space_);
  if (latency_)  // it does not depend on weights
    cost_->UseLatency(latency_->measured.model);
  else if (config_.wants_latency())
    latency_ = AddLatency(*space_, config_.latency, device_, *cost_, latency_file_);
  budget_.emplace(*cost_, config_.budget);
}

Environment Pipeline::MakeEnvironment() const {
  return {.space = *space_,
          .cost = *cost_,
          .budget = *budget_,
          .splits = &*splits_,
          .task = task_,
          .device = device_};
}

SearchContext Pipeline::MakeContext(const std::string& stage, uint64_t trial) {
  SearchContext context;
  context.seed = static_cast<uint64_t>(config_.run.seed);
  context.trial = trial;
  context.folder = folder_->path() / stage;
  context.metric = [this, stage](int64_t step, std::string_view name, double value) {
    metrics_->Add(stage, step, name, value);
  };
  context.progress = ProgressLine(stage);
  return context;
}

void Pipeline::DescribeSpace() {
  if (folder_->Finished("space")) return;
  ordered_json result = SpaceToJson(*space_, *cost_);
  if (latency_) {
    latency_->cache.Write(latency_file_);
    result["latency"] = LatencyToJson(*latency_);
  }
  result["network"] = source_.network.name;
  result["convention"] = ConventionName(budget_->convention());
  result["bounds"] = ordered_json::array();
  for (const auto& bound : budget_->bounds())
    result["bounds"].push_back({{"kind", CostName(bound.kind)},
                                {"limit", bound.limit},
                                {"full", bound.full},
                                {"least", bound.least}});
  result["data"] = {{"name", data_.name},
                    {"train", splits_->train().count()},
                    {"validation", splits_->validation().count()},
                    {"test", splits_->test().count()},
                    {"seen", data_.seen},
                    {"held_out", source_.held_out}};
  result["task"] = {{"loss", task_.loss}, {"metric", task_.metric}};
  folder_->Finish("space", result);
}

void Pipeline::WriteFront(const std::filesystem::path& folder, const nlohmann::json& info) const {
  if (!info.contains("front")) return;
  for (const nlohmann::json& row : info.at("front")) {
    if (!row.contains("budget")) continue;  // the run's own: best/plan.json
    const auto selection = row.at("kept").get<Selection>();
    Plan plan = MakePlan(*space_, selection);
    plan.source_sha256 = space_->network().WeightsHash();
    WritePlan(folder / Str("front-", row.at("budget").get<double>(), ".plan.json"), plan,
              config_.space, CostTable(*space_, *cost_, selection));
  }
}

ordered_json Pipeline::SearchStage(const std::string& stage, const std::string& name,
                                   const Strategy& strategy, uint64_t trial) {
  if (auto found = folder_->Finished(stage)) return *found;
  LogInfo(stage, ": ", name, " on ", source_.network.name);
  SearchContext context = MakeContext(stage, trial);
  const SearchResult result = strategy.Run(MakeEnvironment(), context);
  if (result.weights)
    SaveWeights(context.folder / "weights.safetensors", result.weights->To(at::kCPU));
  WriteFront(context.folder, result.info);
  const auto cost = CostTable(*space_, *cost_, result.selection);
  const ordered_json found = {{"strategy", name},
                              {"selection", result.selection},
                              {"kept", KeptCounts(result.selection)},
                              {"cost", cost},
                              {"trained", result.weights.has_value()},
                              {"histogram", ScoreHistogram(result.scores, result.selection)},
                              {"info", Ordered(result.info)},
                              {"seconds", result.seconds}};
  const auto& counted = cost.at(ConventionName(budget_->convention()));
  metrics_->store().SetTrial({.name = stage + "/" + name,
                              .status = "complete",
                              .kept_json = found["kept"].dump(),
                              .macs = counted["macs"][1],
                              .params = counted["params"][1],
                              .seconds = result.seconds});
  folder_->Finish(stage, found);
  return found;
}

Pipeline::Candidate Pipeline::CutStage(const std::string& stage, const std::string& search_stage,
                                       const ordered_json& found, uint64_t trial) {
  Candidate candidate;
  candidate.selection = found.at("selection").get<Selection>();
  candidate.plan = MakePlan(*space_, candidate.selection);
  if (found.at("trained").get<bool>()) {
    candidate.trained = space_->network();
    candidate.trained->store = candidate.trained->store.Clone();
    LoadWeights(folder_->path() / search_stage / "weights.safetensors", candidate.trained->store);
  }
  const Network& uncut = candidate.trained ? *candidate.trained : space_->network();
  candidate.plan.source_sha256 = uncut.WeightsHash();
  candidate.cut = Cut(uncut, candidate.plan);
  candidate.refined = candidate.cut;
  if (!IsOn(config_.refine)) {
    if (!folder_->Finished(stage)) folder_->Finish(stage, {{"refine", nullptr}});
    return candidate;
  }
  const auto file = folder_->path() / stage / "refined.safetensors";
  if (folder_->Finished(stage)) {
    candidate.refined.store = candidate.cut.store.Clone();
    LoadWeights(file, candidate.refined.store);
    return candidate;
  }
  const Timer timer;
  SearchContext context = MakeContext(stage, trial);
  auto refined = Refine(MakeEnvironment(), candidate.plan, candidate.cut, config_.refine, context);
  candidate.refined = On(at::kCPU, refined.network);
  SaveWeights(file, candidate.refined.store);
  folder_->Finish(stage, {{"refine", Ordered(refined.info)}, {"seconds", timer.Seconds()}});
  return candidate;
}

void Pipeline::SparsifyStage() {
  if (config_.sparsify.train.epochs == 0) return;
  given_ = source_.network;
  source_.network.store = source_.network.store.Clone();
  ParameterStore& store = source_.network.store;
  const auto folder = folder_->path() / "sparsify";
  source_.weights_file = folder / "weights.safetensors";
  if (folder_->Finished("sparsify")) {
    LoadWeights(source_.weights_file, store);
  } else {
    LogInfo("sparsify: ", config_.sparsify.train.epochs, " epochs with ",
            config_.sparsify.regulariser);
    const SparsifyResult result =
        Sparsify(MakeEnvironment(), config_.sparsify, MakeContext("sparsify", 0),
                 EpochLog(*metrics_, "sparsify", config_.sparsify.train.epochs, task_.metric));
    for (const std::string& name : store.CanonicalNames())
      store.Set(name, result.network.store.Get(name));
    SaveWeights(source_.weights_file, store, {{"normalisation", source_.Normalisation()}});
    if (!source_.config.file.empty()) WritePt2(folder / "model.pt2", source_.network);
    ordered_json found = TrainingJson(result.history, task_.metric);
    found.update(Ordered(result.info));
    folder_->Finish("sparsify", found);
  }
  // From here on the sparse network is what is cut; a certificate starts from its file.
  if (source_.config.file.empty()) {
    source_.config.weights = source_.weights_file;
  } else {
    source_.config.file = source_.weights_file = folder / "model.pt2";
  }
  source_.file_sha256 = Sha256OfFile(source_.weights_file);
  UseWeights(source_.network);
}

Network Pipeline::Finetune(const Candidate& candidate) {
  const Network& start = candidate.refined;
  if (config_.finetune.epochs == 0) return start;
  Network network = start;
  network.store = start.store.Clone();
  const auto file = folder_->path() / "finetune" / "weights.safetensors";
  if (folder_->Finished("finetune")) {
    LoadWeights(file, network.store);
    return network;
  }
  LogInfo("finetune: ", config_.finetune.epochs, " epochs");
  Task task = task_;
  if (!config_.finetune.loss.empty() && Objective(config_.finetune.loss).Has(kNeedsFeatures))
    task.features = MatchedFeatures(*space_, candidate.selection);
  network.store = network.store.To(device_);
  const auto result = Train(network, *splits_, task, config_.finetune,
                            static_cast<uint64_t>(config_.run.seed), folder_->path() / "finetune",
                            EpochLog(*metrics_, "finetune", config_.finetune.epochs, task_.metric));
  network.store = network.store.To(at::kCPU);
  SaveWeights(file, network.store);
  folder_->Finish("finetune", TrainingJson(result.history, task_.metric));
  return network;
}

void Pipeline::Verify(const Candidate& candidate, const Network& final_network) {
  if (folder_->Finished("verify")) return;
  const auto seed = static_cast<uint64_t>(config_.run.seed);
  LogInfo("verify: masked against cut network");
  std::optional<Space> trained_space;
  if (candidate.trained)
    trained_space = WithWeightsOf(*candidate.trained, *space_, ToOptions(config_.space));
  const auto best = folder_->path() / "best";
  const Certificate certificate =
      CertifyOrThrow(best, trained_space ? *trained_space : *space_, candidate.selection,
                     candidate.plan, candidate.cut, seed);
  WriteDelivery(
      best, {.network = final_network,
             .plan = candidate.plan,
             .certificate = certificate,
             .cost = CostTable(*space_, *cost_, candidate.selection),
             .source = SourceOf(source_, seed, ToOptions(config_.space)),
             .normalisation = NormalisationText(splits_->config().mean, splits_->config().std)});
  // A run whose strategy trained the uncut weights has no source file to start from again.
  ordered_json checks = ordered_json::array();
  if (!candidate.trained) {
    const VerifyReport report = VerifyDelivery(best, "");
    checks = report.checks;
    if (!report.passed)
      throw Error(ErrorKind::kInternal, Str("what was written does not verify: ", checks.dump()));
  }
  ordered_json result = Ordered(ToJson(certificate));
  result["checks"] = checks;
  folder_->Finish("verify", result);
}

ordered_json Pipeline::Measured(const Network& network) const {
  ThrowIfInterrupted("measuring");
  return ScoreToJson(Evaluate(On(device_, network), splits_->test(), task_));
}

void Pipeline::Measure(const Candidate& candidate, const Network& final_network,
                       const std::vector<Candidate>& controls) {
  if (folder_->Finished("test")) return;
  LogInfo("test: ", splits_->test().count(), " samples");
  ordered_json result;
  result["base"] = Measured(given_ ? *given_ : source_.network);
  if (given_) result["sparse"] = Measured(source_.network);
  result["cut"] = Measured(candidate.cut);
  if (IsOn(config_.refine)) result["refined"] = Measured(candidate.refined);
  result["final"] = config_.finetune.epochs > 0 ? Measured(final_network)
                    : IsOn(config_.refine)      ? result["refined"]
                                                : result["cut"];
  result["controls"] = ordered_json::array();
  for (size_t i = 0; i < controls.size(); ++i) {
    ordered_json control = {{"strategy", config_.controls.strategies[i]}};
    control["cut"] = Measured(controls[i].cut);
    if (IsOn(config_.refine)) control["refined"] = Measured(controls[i].refined);
    result["controls"].push_back(control);
  }
  result["latency"] = LatencyChange(config_.latency, device_, latency_ ? &*latency_ : nullptr,
                                    *cost_, candidate.selection, source_.network, final_network);
  folder_->Finish("test", result);
}

ordered_json Pipeline::Run(RunFolder& folder) {
  folder_ = &folder;
  SetLogFile((folder.path() / "run.log").string());
  folder.Manifest(MachineFacts(device_.str()), {{"weights_sha256", source_.file_sha256},
                                                {"network_sha256", source_.network.WeightsHash()},
                                                {"data_sha256", DataHash(*splits_)}});
  metrics_ = std::make_unique<MetricLog>(folder.path());
  DescribeSpace();

  SparsifyStage();
  ThrowIfInterrupted("the run");
  const auto found = SearchStage("search", config_.strategy_name, *config_.strategy, 0);
  ThrowIfInterrupted("the run");
  const Candidate candidate = CutStage("cut", "search", found, 0);
  const Network final_network = Finetune(candidate);
  ThrowIfInterrupted("the run");

  std::vector<Candidate> controls;
  for (size_t i = 0; i < config_.controls.strategies.size(); ++i) {
    const std::string& name = config_.controls.strategies[i];
    const auto strategy = Registry<Strategy>::Global().Create("strategy", name);
    const std::string stage = "control-" + name;
    const auto control = SearchStage(stage, name, *strategy, i + 1);
    controls.push_back(CutStage(stage + "-cut", stage, control, i + 1));
    ThrowIfInterrupted("the run");
  }
  Verify(candidate, final_network);
  Measure(candidate, final_network, controls);
  WriteReport(folder.path());
  folder.Finish("report", ordered_json::object());
  return *Result(folder);
}

std::optional<ordered_json> Pipeline::Result(const RunFolder& folder) {
  if (!folder.Finished("report")) return std::nullopt;
  const auto space = *folder.Finished("space");
  const auto search = *folder.Finished("search");
  const auto test = *folder.Finished("test");
  const auto certificate = *folder.Finished("verify");
  const std::string convention = space.at("convention");
  const auto& cost = search.at("cost").at(convention);
  const auto row = [&](const ordered_json& measured, int after) {
    ordered_json out;
    CopyFigure(measured, out);
    out["macs"] = cost.at("macs").at(after);
    out["params"] = cost.at("params").at(after);
    return out;
  };
  ordered_json result = {{"run", folder.path().string()}, {"convention", convention}};
  result["base"] = row(test.at("base"), 0);
  if (test.contains("sparse")) result["sparse"] = row(test.at("sparse"), 0);
  result["cut"] = row(test.at("cut"), 1);
  if (test.contains("refined")) result["refined"] = row(test.at("refined"), 1);
  result["final"] = row(test.at("final"), 1);
  result["controls"] = ordered_json::array();
  for (const auto& control : test.at("controls")) {
    const auto name = control.at("strategy").get<std::string>();
    const auto made = *folder.Finished("control-" + name);
    ordered_json out = {{"strategy", name}};
    CopyFigure(control.at("cut"), out);
    out["macs"] = made.at("cost").at(convention).at("macs").at(1);
    out["params"] = made.at("cost").at(convention).at("params").at(1);
    if (control.contains("refined")) {
      out["refined_value"] = ValueOf(control["refined"]);
      if (out.contains("accuracy")) out["refined_accuracy"] = out["refined_value"];
    }
    result["controls"].push_back(out);
  }
  result["certificate"] = {{"max_rel_error", certificate.at("max_rel_error")},
                           {"passed", certificate.at("passed")}};
  if (test.contains("latency")) result["latency"] = test["latency"];
  result["report"] = (folder.path() / "report.html").string();
  return result;
}

}  // namespace espalier
