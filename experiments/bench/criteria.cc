// How well criteria agree with the oracle, and what collecting their statistics costs.
//   espalier-criteria spearman MODEL BATCHES BATCH_SIZE [DATA_ROOT] [THREADS]
//       Spearman correlation of every criterion with unit ablation on the same training images:
//       over all units, and the mean over groups; a markdown table
//   espalier-criteria cost MODEL BATCHES BATCH_SIZE [DATA_ROOT] [THREADS]
//       seconds of all gradient statistics against one forward and backward of each batch, in
//       turns; and of the first batch's sample gradients, together and one by one
// MODEL is NAME, NAME:weights.safetensors or a file. Images are those of CIFAR-10; a file's samples
// are the tensors in DATA_ROOT: tokens and the next ones (experiments/bench/language.py writes
// some).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <numeric>

#include "criteria/criterion.h"
#include "env/base/error.h"
#include "env/base/log.h"
#include "env/data/splits.h"
#include "env/graph/executor.h"
#include "env/graph/torchscript.h"
#include "env/models/models.h"
#include "env/space/space.h"
#include "env/task/loss.h"

namespace espalier {
namespace {

using Values = std::vector<double>;

/// Places 1 .. n; equal values share the mean of theirs.
Values Ranks(const Values& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  Values ranks(values.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first;
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (size_t i = first; i < last; ++i)
      ranks[order[i]] = static_cast<double>(first + last + 1) / 2;
    first = last;
  }
  return ranks;
}

/// 0 when either side is constant.
double Spearman(const Values& a, const Values& b) {
  const Values x = Ranks(a), y = Ranks(b);
  const double mean = (static_cast<double>(x.size()) + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

struct Setup {
  Space space;
  Calibration calibration;
};

Setup MakeSetup(const std::string& model, int64_t batches, int64_t batch_size,
                const std::string& root) {
  const Network network = LoadModel(model);
  const bool tokens = IsNetworkFile(model);
  DataConfig data;
  data.root = root;
  if (tokens) data.name = "tensors";
  const Splits splits = Splits::Load(data, &network);
  Loader loader(splits.train(), {.batch_size = batch_size, .augment = false, .seed = 1});
  std::vector<Batch> taken;
  for (int64_t batch = 0; batch < batches; ++batch) {
    taken.push_back(loader.Get(0, batch));
  }
  Setup setup{BuildSpace(network), CalibrationOf(std::move(taken))};
  if (tokens)
    setup.calibration.loss = [](const std::vector<Tensor>& outputs, const Batch& batch) {
      return Objective("next_token_nll").Mean({batch, outputs});
    };
  return setup;
}

std::vector<std::string> AllCriteria() {
  std::vector<std::string> texts = Registry<Criterion>::Global().Names();
  for (const char* mode : {"vector", "squared", "element_1"})
    for (const char* accumulate : {"signed", "batch", "sample"})
      texts.push_back(Str("taylor(mode=", mode, ", accumulate=", accumulate, ")"));
  texts.insert(texts.end(), {"taylor(mode=element_2)", "taylor(mode=mixed)",
                             "taylor(mode=mixed, accumulate=sample)", "wood_fisher(joint=false)",
                             "activation(mode=mean)", "activation(mode=weighted)",
                             "l1_norm(members=producer)", "l2_norm(reduce=mean)"});
  std::erase(texts, "ablation");
  std::erase(texts, "taylor");  // its default is in the list with its options
  return texts;
}

void PrintSpearman(const Setup& setup) {
  const Space& space = setup.space;
  Needs needs = MakeCriterion("ablation")->needs();
  Calibration calibration = setup.calibration;
  for (const std::string& text : AllCriteria()) {
    needs.merge(MakeCriterion(text)->needs());
    MakeCriterion(text)->Adjust(calibration);
  }
  calibration.progress = [](int64_t done, int64_t total) {
    if (done % 50 == 0 || done == total)
      std::fprintf(stderr, "%lld of %lld\n", static_cast<long long>(done),
                   static_cast<long long>(total));
  };
  const Statistics statistics = CollectStatistics(space, space.network().store, needs, calibration);
  const auto score = [&](const std::string& text) {
    return ScoreGroups(*MakeCriterion(text), space, space.network().store, 1, &statistics);
  };
  const auto flat = [](const std::vector<Values>& groups) {
    Values all;
    for (const Values& group : groups) all.insert(all.end(), group.begin(), group.end());
    return all;
  };
  const auto oracle = score("ablation");
  struct Row {
    std::string text;
    double all, within;
  };
  std::vector<Row> rows;
  for (const std::string& text : AllCriteria()) {
    std::vector<Values> scores;
    try {
      scores = score(text);
    } catch (const Error& error) {  // some group has nothing it could score
      std::fprintf(stderr, "%s does not apply: %s\n", text.c_str(), error.what());
      continue;
    }
    double within = 0;
    for (size_t g = 0; g < scores.size(); ++g) within += Spearman(scores[g], oracle[g]);
    rows.push_back(
        {text, Spearman(flat(scores), flat(oracle)), within / static_cast<double>(scores.size())});
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.all > b.all; });
  std::printf("%s: %lld units in %zu groups, %lld batches, loss %.4f, %lld sample gradients\n\n",
              space.network().name.c_str(), static_cast<long long>(space.total_units()),
              space.groups().size(), static_cast<long long>(statistics.batches), statistics.loss,
              static_cast<long long>(statistics.samples));
  std::printf("| criterion | all units | mean within groups |\n|---|---|---|\n");
  for (const Row& row : rows)
    std::printf("| %s | %.3f | %.3f |\n", row.text.c_str(), row.all, row.within);
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void ForwardBackward(const Setup& setup) {
  const Network& network = setup.space.network();
  ParameterStore store = network.store.Clone();
  for (const std::string& name : store.CanonicalNames())
    if (store.Get(name).dim() == 4)
      store.Set(name, store.Get(name).contiguous(at::MemoryFormat::ChannelsLast));
  store.SetRequiresGrad(true);
  const Executor executor(network.graph);
  const Binding binding = executor.Bind(store);
  for (int64_t b = 0; b < setup.calibration.batches; ++b) {
    const Batch batch = setup.calibration.get(b);
    setup.calibration.loss(executor.Run(binding, batch.inputs), batch).backward();
  }
}

/// Of the processor, all threads together: other programs disturb it less than wall time.
double ProcessorSeconds(const std::function<void()>& work) {
  const std::clock_t start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

/// Sample gradients of the first batch, taken together and one by one.
void PrintSampleCost(const Setup& setup) {
  const Batch batch = setup.calibration.get(0);
  const int64_t count = std::min(batch.size(), setup.calibration.max_samples);
  Calibration together = setup.calibration, alone = setup.calibration;
  together.batches = 1;
  alone.batches = count;
  alone.get = [&](int64_t sample) { return batch.Part(sample, 1); };
  const auto seconds = [&](const Calibration& calibration) {
    return ProcessorSeconds([&] {
      CollectStatistics(setup.space, setup.space.network().store, {Need::kSampleGradient},
                        calibration);
    });
  };
  const double fast = seconds(together), slow = seconds(alone);
  std::printf(
      "gradients of %lld samples, processor time: together %.3f s, one by one %.3f s: %.2f times\n",
      static_cast<long long>(count), fast, slow, slow / fast);
}

void PrintCost(const Setup& setup) {
  constexpr int kRounds = 3;
  double plain = std::numeric_limits<double>::max(), gradients = plain;
  for (int round = 0; round < kRounds; ++round) {
    plain = std::min(plain, Seconds([&] { ForwardBackward(setup); }));
    gradients = std::min(gradients, Seconds([&] {
                           CollectStatistics(setup.space, setup.space.network().store,
                                             {Need::kGradient}, setup.calibration);
                         }));
  }
  std::printf("forward and backward %.3f s, all gradient statistics %.3f s: %.3f times\n", plain,
              gradients, gradients / plain);
  PrintSampleCost(setup);
}

int Main(int argc, char** argv) {
  SetQuiet(true);
  try {
    if (argc < 5)
      throw Error(ErrorKind::kUsage, "espalier-criteria: too few arguments",
                  "espalier-criteria spearman|cost MODEL BATCHES BATCH_SIZE [DATA_ROOT] [THREADS]");
    if (argc > 6) at::set_num_threads(std::max(1, std::atoi(argv[6])));
    const Setup setup = MakeSetup(argv[2], std::max(1LL, std::atoll(argv[3])),
                                  std::max(1LL, std::atoll(argv[4])), argc > 5 ? argv[5] : "data");
    const std::string what = argv[1];
    if (what == "spearman")
      PrintSpearman(setup);
    else if (what == "cost")
      PrintCost(setup);
    else
      throw Error(ErrorKind::kUsage, Str("espalier-criteria: unknown measurement '", what, "'"),
                  SuggestName(what, {"spearman", "cost"}));
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n  help: %s\n", error.what(), error.hint().c_str());
    return ExitCode(error.kind());
  }
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }
