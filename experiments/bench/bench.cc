// One measurement per line of standard input, one JSON object per line of standard output, so that
// bench.py can take turns with Python in one run:
//   train MODEL BATCH STEPS fp32|bf16 [cpu|cuda recorded|launched]
//                                        seconds a step of the trainer, augmentation included
//   eval MODEL BATCH IMAGES fast|plain|bf16  images a second
//   autobot MODEL BATCH STEPS            seconds a step of the search
//   trace MODEL coupled|decoupled        label trace + groups, cost model, one forward of 1 image
//   project MODEL ROUNDS                 microseconds a projection
//   candidates WEIGHTS DATA COUNT SAMPLES fp32|bf16 race|full shared|alone WORKERS
//                                        evaluates random cuts of ResNet-56 to half its MACs
//   cut FILE.pt2 ROUNDS                  trace, groups, L1 scores, plan, cut to half of every width
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "criteria/criterion.h"
#include "env/base/error.h"
#include "env/base/log.h"
#include "env/base/machine.h"
#include "env/cost/budget.h"
#include "env/eval/candidate_evaluator.h"
#include "env/eval/evaluator.h"
#include "env/eval/task_samples.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/models/models.h"
#include "env/space/space.h"
#include "env/train/trainer.h"
#include "search/strategy.h"

namespace espalier {
namespace {

using nlohmann::json;

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double BestSeconds(int64_t rounds, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::max();
  for (int64_t round = 0; round < rounds; ++round) best = std::min(best, Seconds(work));
  return best;
}

ImageSet Noise(int64_t count) {
  ImageSet set;
  set.images = at::randint(256, {count, 3, 32, 32}, at::kByte);
  set.labels = at::randint(10, {count}, at::kLong);
  return set;
}

Splits NoiseSplits(int64_t train) { return Splits({}, Noise(train), Noise(0), Noise(0)); }

json MeasureTraining(std::istream& in) {
  std::string model, precision;
  int64_t batch = 0, steps = 0;
  in >> model >> batch >> steps >> precision;
  std::string device = "cpu", form = "recorded";
  in >> device >> form;
  const Splits splits = NoiseSplits(batch * steps).To(at::Device(device));
  Network network = BuildModel(model);
  network.store = network.store.To(at::Device(device));
  TrainConfig config;
  config.epochs = 2;  // the first warms up
  config.batch_size = batch;
  config.precision = precision;
  config.recorded = form == "recorded";
  const TrainResult result = Train(network, splits, {}, config, 1, {});
  return {{"seconds", result.history.back().seconds / static_cast<double>(steps)}};
}

json MeasureEvaluation(std::istream& in) {
  std::string model, path;
  int64_t batch = 0, images = 0;
  in >> model >> batch >> images >> path;
  const Splits splits = NoiseSplits(images);
  const Score score = Evaluate(BuildModel(model), splits.train(), {},
                               {.batch_size = batch,
                                .fast = path != "plain",
                                .dtype = path == "bf16" ? at::kBFloat16 : at::kFloat});
  return {{"seconds", score.seconds / static_cast<double>(images)}};
}

json MeasureAutobot(std::istream& in) {
  std::string model;
  int64_t batch = 0, steps = 0;
  in >> model >> batch >> steps;
  const Splits splits = NoiseSplits(batch * steps);
  const Space space = BuildSpace(BuildModel(model), {.decouple_residuals = true});
  const CostModel cost(space);
  BudgetConfig bounds;
  bounds.macs = Quantity{0.5, true};
  bounds.convention = "autobot";
  const Budget budget(cost, bounds);
  const Environment environment{.space = space, .cost = cost, .budget = budget, .splits = &splits};
  const auto search = [&](int64_t batches) {
    const auto config =
        ConfigDocument::Parse(Str("[strategy]\nbatches = ", batches, "\nbatch_size = ", batch,
                                  "\nevaluations = 1\ncheckpoint_every = 1000000\n"),
                              "bench");
    const auto strategy =
        Registry<Strategy>::Global().Create("strategy", "autobot", config.Section("strategy"));
    return Seconds([&] {
      SearchContext context;
      strategy->Run(environment, context);
    });
  };
  const double start = search(1);  // what every search pays once, and a warm-up
  return {{"seconds", (search(steps + 1) - start) / static_cast<double>(steps)}};
}

json MeasureTrace(std::istream& in) {
  std::string model, residuals;
  in >> model >> residuals;
  const Network network = BuildModel(model);
  const Executor executor(network.graph);
  const Binding binding = executor.Bind(network.store);
  const std::vector<Tensor> inputs = SampleInputs(network, 1);
  constexpr int64_t kRounds = 5;
  const SpaceOptions options{.decouple_residuals = residuals == "decoupled"};
  const double forward = BestSeconds(kRounds, [&] {
    const at::NoGradGuard no_grad;
    executor.Run(binding, inputs);
  });
  const double groups = BestSeconds(kRounds, [&] { BuildSpace(network, options); });
  const Space space = BuildSpace(network, options);
  const double cost = BestSeconds(kRounds, [&] { CostModel model_of(space); });
  return {
      {"forward", forward}, {"space", groups}, {"cost", cost}, {"groups", space.groups().size()}};
}

/// Everything between a network in memory and a smaller one: trace, groups, L1 scores, plan, cut.
/// The stages are in seconds of this process' CPU time, which other processes disturb less.
json MeasureCut(std::istream& in) {
  std::string path;
  int64_t rounds = 0;
  in >> path >> rounds;
  const Network network = ReadPt2(path);
  const auto criterion = Registry<Criterion>::Global().Create("criterion", "l1_norm");
  size_t groups = 0;
  int64_t params = 0;
  std::map<std::string, double> stages;
  const double seconds = BestSeconds(rounds, [&] {
    auto last = static_cast<double>(std::clock());
    const auto stage = [&](const std::string& name) {
      const auto now = static_cast<double>(std::clock());
      const double spent = (now - last) / CLOCKS_PER_SEC;
      const auto [known, fresh] = stages.try_emplace(name, spent);
      if (!fresh) known->second = std::min(known->second, spent);
      last = now;
    };
    const Space space = BuildSpace(network);
    stage("space");
    const auto scores = ScoreGroups(*criterion, space, space.network().store, 0);
    stage("scores");
    std::vector<int64_t> counts;
    for (const Group& group : space.groups()) counts.push_back(group.Keepable(group.units / 2));
    const Plan plan = MakePlan(space, SelectTop(space, scores, counts));
    stage("plan");
    const Network cut = Cut(space.network(), plan);
    stage("cut");
    groups = space.groups().size();
    params = cut.store.ParameterCount();
  });
  return {{"seconds", seconds}, {"groups", groups}, {"params", params}, {"cpu", stages}};
}

json MeasureProjection(std::istream& in) {
  std::string model;
  int64_t rounds = 0;
  in >> model >> rounds;
  const Space space = BuildSpace(BuildModel(model), {.decouple_residuals = true});
  const CostModel cost(space);
  BudgetConfig bounds;
  bounds.macs = Quantity{0.5, true};
  bounds.params = Quantity{0.6, true};
  const Budget budget(cost, bounds);
  Rng rng(1);
  std::vector<Decision> decisions;
  for (int64_t i = 0; i < rounds; ++i) {
    Decision decision;
    for (size_t group = 0; group < space.groups().size(); ++group)
      decision.push_back(rng.Uniform(0.1, 1));
    decisions.push_back(decision);
  }
  size_t kept = 0;
  const double seconds = Seconds([&] {
    for (const Decision& decision : decisions) kept += budget.Project(decision).size();
  });
  ESPALIER_CHECK(kept == decisions.size() * space.groups().size(), kept);
  return {{"seconds", seconds / static_cast<double>(rounds)}, {"groups", space.groups().size()}};
}

/// Random keep ratios at half the MACs, evaluated on test images. The weights may have seen every
/// training image, and what they do on those tells nothing.
json MeasureCandidates(std::istream& in) {
  std::string weights, root, precision, race, sharing, device = "cpu", form = "sliced";
  int64_t count = 0, samples = 0, workers = 0;
  in >> weights >> root >> count >> samples >> precision >> race >> sharing >> workers;
  in >> device >> form;
  DataConfig data;
  data.root = root;
  data.mean = {0.485, 0.456, 0.406};
  data.std = {0.229, 0.224, 0.225};
  const Splits splits = Splits::Load(data);
  const Space space = BuildSpace(LoadModel("resnet56:" + weights), {.decouple_residuals = true});
  const CostModel cost(space);
  BudgetConfig bounds;
  bounds.macs = Quantity{0.5, true};
  const Budget budget(cost, bounds);
  const auto criterion = Registry<Criterion>::Global().Create("criterion", "l1_norm");
  const auto scores = ScoreGroups(*criterion, space, space.network().store, 0);
  Rng rng(1, 0, "bench/candidates");
  std::vector<Selection> candidates;
  for (int64_t i = 0; i < count; ++i) {
    Decision decision;
    for (size_t g = 0; g < space.groups().size(); ++g) decision.push_back(rng.Uniform(0.2, 1.0));
    candidates.push_back(SelectTop(space, scores, budget.Project(decision)));
  }
  const TaskSamples set(splits.test(), {}, space.network(), samples, 0, at::Device(device));
  CandidateOptions options{.workers = workers, .device = at::Device(device)};
  options.masked = form == "masked";
  options.dtype = precision == "bf16" ? at::kBFloat16 : at::kFloat;
  options.race.on = race == "race";
  options.share_prefixes = sharing == "shared";
  CandidateEvaluator warm_up(space, set, options);
  warm_up.Evaluate(candidates.front());
  json values = json::array(), errors = json::array();
  int64_t forwards = 0, dropped = 0;
  const double seconds = Seconds([&] {
    CandidateEvaluator evaluator(space, set, options);
    for (const CandidateScore& score : evaluator.Evaluate(candidates)) {
      ESPALIER_CHECK(!score.failed, score.cause);
      values.push_back(score.value);
      errors.push_back(score.standard_error);
      dropped += score.dropped;
    }
    forwards = evaluator.counters().samples;
  });
  return {{"seconds", seconds},
          {"values", values},
          {"errors", errors},
          {"dropped", dropped},
          {"forwards", forwards}};
}

json Measure(const std::string& line) {
  std::istringstream in(line);
  std::string what;
  in >> what;
  if (what == "train") return MeasureTraining(in);
  if (what == "eval") return MeasureEvaluation(in);
  if (what == "autobot") return MeasureAutobot(in);
  if (what == "candidates") return MeasureCandidates(in);
  if (what == "trace") return MeasureTrace(in);
  if (what == "cut") return MeasureCut(in);
  if (what == "project") return MeasureProjection(in);
  throw Error(ErrorKind::kUsage, Str("unknown measurement '", what, "'"));
}

int Main(int argc, char** argv) {
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 2);
  SetQuiet(true);
  try {
    for (std::string line; std::getline(std::cin, line);)
      std::cout << Measure(line).dump() << std::endl;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << "\n  help: " << error.hint() << "\n";
    return ExitCode(error.kind());
  }
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  espalier::KeepFreedMemory();
  return espalier::Main(argc, argv);
}
