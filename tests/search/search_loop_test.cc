#include "search/search_loop.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <set>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "search/preparation.h"
#include "search/proposers/evolution.h"
#include "search/proposers/random_search.h"
#include "search/trial_journal.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

/// Asks for what the test says, batch by batch.
class Scripted final : public Proposer {
 public:
  explicit Scripted(std::function<std::vector<Proposal>(size_t groups, size_t batch)> script)
      : script_(std::move(script)) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng&) const override {
    return script_(problem.groups(), told.size());
  }
  void Tell(const SearchProblem&, std::span<const Trial> batch) override {
    told.emplace_back(batch.begin(), batch.end());
  }
  std::vector<std::vector<Trial>> told;

 private:
  std::function<std::vector<Proposal>(size_t, size_t)> script_;
};

SearchResult RunScript(Scripted& proposer, const SearchLoopConfig& config,
                       const std::filesystem::path& folder = {}) {
  const TinyEnvironment tiny;
  SearchContext context{.seed = 1, .folder = folder};
  return RunSearchLoop("scripted", config, "scripted", proposer, tiny.Get(), context);
}

std::vector<Proposal> Equal(size_t groups, double ratio) {
  return {{.decision = Decision(groups, ratio)}};
}

TEST(SearchLoopUnit, TheUniformRatioComesFirstAndNoResultIsBelowIt) {
  Evolution proposer({.population = 8, .tournament = 3, .batch = 4});
  const TinyEnvironment tiny;
  SearchContext context{.seed = 3};
  const SearchResult result =
      RunSearchLoop("evolution", {.evaluations = 40}, "", proposer, tiny.Get(), context);
  EXPECT_GE(result.info["best"]["value"].get<double>(), result.info["uniform"].get<double>());
  EXPECT_EQ(result.info["evaluations"].get<double>(), 40);
  EXPECT_EQ(result.info["samples"], 32);
  const auto& front = result.info["trade_off"]["points"];
  ASSERT_FALSE(front.empty());
  EXPECT_EQ(front.back()["value"], result.info["best"]["value"]);
  for (size_t i = 1; i < front.size(); ++i) {
    EXPECT_GT(front[i]["macs"], front[i - 1]["macs"]);
    EXPECT_GT(front[i]["value"], front[i - 1]["value"]) << "else it would not be in the front";
  }
}

TEST(SearchLoopUnit, AProposerThatLeavesItsBoundsHasFailedTrialsAndTheSearchGoesOn) {
  Scripted proposer([](size_t groups, size_t batch) -> std::vector<Proposal> {
    if (batch % 3 == 1) return Equal(groups, batch == 1 ? 1.7 : std::nan(""));
    if (batch == 5) return Equal(groups + 1, 0.5);
    return Equal(groups, 0.3 + 0.05 * static_cast<double>(batch));
  });
  const SearchResult result = RunScript(proposer, {.evaluations = 12});
  EXPECT_EQ(result.info["failed"], 5);  // batches 1, 4, 5, 7 and 10
  EXPECT_NE(proposer.told[1][0].cause.find("leaves (0, 1]: ratio 1.7"), std::string::npos)
      << proposer.told[1][0].cause;
  EXPECT_NE(proposer.told[5][0].cause.find("ratios for"), std::string::npos);
  EXPECT_TRUE(proposer.told[1][0].failed);
  EXPECT_FALSE(proposer.told[2][0].failed);
}

TEST(SearchLoopUnit, ARepeatedProposalIsAnsweredFromMemory) {
  Scripted proposer([](size_t groups, size_t) { return Equal(groups, 0.5); });
  const SearchResult result = RunScript(proposer, {.evaluations = 10});
  EXPECT_EQ(result.info["candidates"], 10);
  EXPECT_EQ(result.info["distinct"], 1);
  EXPECT_EQ(result.info["forwards"], 32);  // one candidate on 32 samples
  for (const auto& batch : proposer.told) EXPECT_EQ(batch[0].value, proposer.told[0][0].value);
}

TEST(SearchLoopUnit, TooManyFailuresEndTheSearchWithTheLastCause) {
  Scripted proposer([](size_t groups, size_t) { return Equal(groups, -1); });
  try {
    RunScript(proposer, {.evaluations = 100});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTrials);
    EXPECT_NE(error.message().find("ratio -1"), std::string::npos) << error.message();
  }
}

TEST(SearchLoopUnit, StepsTakenAsTheyAreMayExceedTheBudgetButAreNeverTheResult) {
  Scripted proposer([](size_t groups, size_t batch) -> std::vector<Proposal> {
    return {{.decision = Decision(groups, 1.0), .as_is = batch % 2 == 1}};
  });
  const TinyEnvironment tiny;
  SearchContext context{.seed = 1};
  const SearchResult result =
      RunSearchLoop("scripted", {.evaluations = 6}, "", proposer, tiny.Get(), context);
  EXPECT_FALSE(proposer.told[1][0].feasible);
  EXPECT_EQ(proposer.told[1][0].kept, tiny.Get().cost.units());
  EXPECT_TRUE(tiny.budget().Feasible(KeptCounts(result.selection)));
}

TEST(SearchLoopUnit, FidelityCountsAsItsPartOfAnEvaluation) {
  Scripted proposer([](size_t groups, size_t batch) -> std::vector<Proposal> {
    return {
        {.decision = Decision(groups, 0.3 + 0.01 * static_cast<double>(batch)), .fidelity = 0.25}};
  });
  const SearchResult result = RunScript(proposer, {.evaluations = 3});
  EXPECT_EQ(proposer.told.size(), 1U + 8U);
  EXPECT_EQ(proposer.told[1][0].samples, 8);
  EXPECT_EQ(result.info["best"]["trial"], 0);  // the only one on all samples
}

TEST(SearchLoopUnit, NoSearchGetsMoreEvaluationsThanItsShare) {
  for (const double fidelity : {1.0, 0.5, 0.375}) {
    SCOPED_TRACE(fidelity);
    Scripted proposer([&](size_t groups, size_t batch) {
      std::vector<Proposal> asked;
      for (int i = 0; i < 7; ++i)
        asked.push_back(
            {.decision = Decision(groups, 0.2 + 0.01 * (7.0 * batch + i)), .fidelity = fidelity});
      return asked;
    });
    const SearchResult result = RunScript(proposer, {.evaluations = 10});
    EXPECT_LE(result.info["evaluations"].get<double>(), 10);
    EXPECT_GT(result.info["evaluations"].get<double>(), 10 - fidelity);
  }
}

TEST(SearchLoopUnit, AFidelityMayBeLessFineTuningOrRecalibration) {
  const auto value_of = [](SearchLoopConfig config, double fidelity) {
    config.evaluations = 2;
    Scripted proposer([&](size_t groups, size_t) -> std::vector<Proposal> {
      return {{.decision = Decision(groups, 0.4), .fidelity = fidelity}};
    });
    const SearchResult result = RunScript(proposer, config);
    EXPECT_EQ(proposer.told[1][0].samples, 32);
    EXPECT_FALSE(proposer.told[1][0].failed) << proposer.told[1][0].cause;
    if (fidelity < 1) {
      EXPECT_EQ(result.info["best"]["trial"], 0) << "only whole ones count";
    }
    return proposer.told[1][0].value;
  };
  const double plain = value_of({}, 1);
  SearchLoopConfig tuned{.finetune_batches = 8, .finetune_lr = 0.1, .fidelity = "finetune"};
  EXPECT_GT(value_of(tuned, 1), plain) << "it learns to tell the brightest colour";
  EXPECT_EQ(value_of(tuned, 1), value_of(tuned, 1));
  SearchLoopConfig once = tuned;
  once.finetune_batches = 2;
  EXPECT_EQ(value_of(tuned, 0.25), value_of(once, 1)) << "a quarter of 8 batches";
  const SearchLoopConfig recalibrated{.recalibrate_batches = 4, .fidelity = "recalibration"};
  value_of(recalibrated, 0.5);
  for (const std::string bad : {"finetune", "recalibration"}) {
    Scripted unused([](size_t groups, size_t) { return Equal(groups, 0.5); });
    try {
      RunScript(unused, {.evaluations = 3, .fidelity = bad});
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find("_batches > 0"), std::string::npos) << error.message();
    }
  }
}

TEST(SearchLoopUnit, CandidatesMayBeFittedToTheUncutNetworkFirst) {
  const TinyEnvironment tiny;
  const Environment environment = tiny.Get();
  const SearchContext context{.seed = 1};
  const auto prepare =
      Preparation("test", {.compensate_batches = 2}, environment, context, /*amount=*/1);
  ASSERT_TRUE(prepare);
  const ParameterStore before = tiny.network().store.Clone();
  Selection selection;
  for (const Group& group : environment.space.groups()) {
    selection.emplace_back();
    for (int64_t unit = 0; unit < group.units; unit += 2) selection.back().push_back(unit);
  }
  const Network cut = Cut(tiny.network(), MakePlan(environment.space, selection));
  Network fitted = cut;
  prepare(fitted, selection);
  const auto error = [&](const Network& network) {
    const auto inputs = environment.Data("test").validation().Range(0, 32).inputs;
    const auto run = [&](const Network& which) {
      const Executor executor(which.graph);
      const at::NoGradGuard no_grad;
      return executor.Run(executor.Bind(which.store), inputs).front();
    };
    return at::mse_loss(run(network), run(tiny.network())).item<double>();
  };
  EXPECT_LT(error(fitted), 0.5 * error(cut)) << "on samples it was not fitted on";
  for (const std::string& name : before.CanonicalNames())
    EXPECT_TRUE(at::equal(before.Get(name), tiny.network().store.Get(name))) << name;
  // As part of a search, and the same again.
  const auto value = [] {
    Scripted proposer([](size_t groups, size_t) { return Equal(groups, 0.4); });
    RunScript(proposer, {.evaluations = 2, .compensate_batches = 2});
    EXPECT_FALSE(proposer.told[1][0].failed) << proposer.told[1][0].cause;
    return proposer.told[1][0].value;
  };
  EXPECT_EQ(value(), value());
}

TEST(SearchLoopUnit, ResultsSayWhichNetworkWasMeasured) {
  EXPECT_EQ(MeasuredWhen({}), "right after the cut");
  EXPECT_EQ(MeasuredWhen({.compensate_batches = 2}), "after the cut and compensation");
  EXPECT_EQ(
      MeasuredWhen({.compensate_batches = 2, .recalibrate_batches = 1, .finetune_batches = 8}),
      "after the cut, compensation, 8 batches of fine-tuning and batch norm recalibration");
  Scripted proposer([](size_t groups, size_t) { return Equal(groups, 0.5); });
  EXPECT_EQ(RunScript(proposer, {.evaluations = 2}).info.at("measured"), "right after the cut");
}

TEST(SearchLoopUnit, EnqueuedPointsAreTriedAndBadOnesAreConfigErrors) {
  Scripted proposer([](size_t groups, size_t) { return Equal(groups, 0.5); });
  RunScript(proposer, {.evaluations = 3, .enqueue = {"0.25"}});
  ASSERT_EQ(proposer.told[0].size(), 2U);
  EXPECT_EQ(proposer.told[0][1].origin, "enqueued");
  EXPECT_EQ(proposer.told[0][1].proposal.decision.front(), 0.25);
  for (const std::string bad : {"0.5,0.5", "1.5", "half", "0.5,", "0.5 0.5", ""}) {
    SCOPED_TRACE(bad);
    Scripted unused([](size_t groups, size_t) { return Equal(groups, 0.5); });
    try {
      RunScript(unused, {.evaluations = 3, .enqueue = {bad}});
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find("enqueue"), std::string::npos);
    }
  }
}

TEST(SearchLoopUnit, AnotherSearchsBestCandidatesComeFirst) {
  const TemporaryFolder folder;
  RandomProposer first({.least = 0.1, .batch = 8});
  const TinyEnvironment tiny;
  SearchContext context{.seed = 4, .folder = folder.path()};
  const SearchResult before =
      RunSearchLoop("random_search", {.evaluations = 30}, "", first, tiny.Get(), context);
  const auto file = folder.path() / "trials.jsonl";
  EXPECT_GE(ReadTrials(file).size(), 30U);
  Scripted second([](size_t groups, size_t) { return Equal(groups, 0.5); });
  const SearchResult after =
      RunScript(second, {.evaluations = 5, .warm_start = file.string(), .warm_points = 3});
  EXPECT_EQ(second.told[0].size(), 1U + 3U);
  std::set<std::vector<int64_t>> distinct;
  for (size_t i = 1; i < second.told[0].size(); ++i) distinct.insert(second.told[0][i].kept);
  EXPECT_EQ(distinct.size(), 3U);
  EXPECT_GE(after.info["best"]["value"].get<double>(), before.info["best"]["value"].get<double>());
}

TEST(SearchLoopUnit, WholeEvaluationsOfAnotherSearchComeBeforeParts) {
  const TemporaryFolder folder;
  std::vector<Trial> known(3);
  for (size_t i = 0; i < known.size(); ++i) {
    known[i].proposal = {.decision = Decision(4, 0.2 + 0.1 * static_cast<double>(i)),
                         .fidelity = i == 1 ? 1 : 0.25};
    known[i].kept = {static_cast<int64_t>(i), 1, 1, 1};
    known[i].feasible = true;
    known[i].samples = i == 1 ? 32 : 8;
    known[i].value = i == 1 ? 0.5 : 0.9;
  }
  const auto file = folder.path() / "other.jsonl";
  WriteJournal(file, {.fingerprint = "other", .batches = {known, known}});
  Scripted proposer([](size_t groups, size_t) { return Equal(groups, 0.5); });
  RunScript(proposer, {.evaluations = 9, .warm_start = file.string(), .warm_points = 2});
  ASSERT_EQ(proposer.told[0].size(), 1U + 2U);
  EXPECT_EQ(proposer.told[0][1].proposal.decision.front(), known[1].proposal.decision.front());
  EXPECT_NE(proposer.told[0][2].proposal.decision.front(), known[1].proposal.decision.front());
}

TEST(SearchLoopUnit, ATornJournalLineIsForgottenAndADamagedOneIsAnError) {
  const auto script = [](size_t groups, size_t batch) {
    return Equal(groups, 0.2 + 0.02 * static_cast<double>(batch));
  };
  Scripted whole(script);
  const SearchResult expected = RunScript(whole, {.evaluations = 10});
  const TemporaryFolder folder;
  const auto file = folder.path() / "trials.jsonl";
  Scripted first(script);
  RunScript(first, {.evaluations = 10}, folder.path());
  std::string text = ReadFile(file);
  WriteFileAtomic(file, text.substr(0, text.size() - 40));
  Scripted again(script);
  const SearchResult resumed = RunScript(again, {.evaluations = 10}, folder.path());
  EXPECT_EQ(resumed.selection, expected.selection);
  EXPECT_EQ(again.told.size(), whole.told.size());
  EXPECT_GT(resumed.info["forwards"], expected.info["forwards"]) << "what was done twice counts";

  text = ReadFile(file);
  text.replace(text.find("\"kept\""), 6, "\"left\"");
  WriteFileAtomic(file, text);
  Scripted damaged(script);
  try {
    RunScript(damaged, {.evaluations = 10}, folder.path());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_NE(error.message().find("line 2"), std::string::npos) << error.message();
  }
}

TEST(SearchLoopUnit, AJournalOfAnotherSearchIsRefused) {
  const TemporaryFolder folder;
  Scripted one([](size_t groups, size_t) { return Equal(groups, 0.5); });
  RunScript(one, {.evaluations = 3}, folder.path());
  Scripted other([](size_t groups, size_t) { return Equal(groups, 0.5); });
  EXPECT_THROW(RunScript(other, {.evaluations = 3, .samples = 16}, folder.path()), Error);
}

}  // namespace
}  // namespace espalier
