#include "env/eval/race.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "env/base/rng.h"

namespace espalier {
namespace {

TEST(RaceUnit, SignTestIsTheExactBinomialTail) {
  // 5 samples on which they differ, the leader right on all: (1/2)^5.
  const std::vector<float> leader = {1, 1, 1, 1, 1, 0, 1}, candidate = {0, 0, 0, 0, 0, 0, 1};
  EXPECT_NEAR(WorsePValue(leader, candidate), 1.0 / 32, 1e-12);
  EXPECT_EQ(WorsePValue(candidate, leader), 1);
  // 4 of 5: (5 + 1) / 32.
  const std::vector<float> mixed = {0, 0, 0, 0, 1}, best = {1, 1, 1, 1, 0};
  EXPECT_NEAR(WorsePValue(best, mixed), 6.0 / 32, 1e-12);
}

TEST(RaceUnit, RealValuesUseStudentsT) {
  // Differences 1, 2, 3, 4: mean 2.5, s = 1.29099, t = 3.87298 with 3 degrees of freedom.
  const std::vector<float> leader = {1, 2, 3, 4}, candidate = {0, 0, 0, 0};
  EXPECT_NEAR(WorsePValue(leader, candidate), 0.015231, 1e-5);
  EXPECT_EQ(WorsePValue(leader, leader), 1);
}

TEST(RaceUnit, RoundsDoubleUpToAllSamples) {
  EXPECT_EQ(RaceRounds(2000, {.first = 500}), (std::vector<int64_t>{500, 1000, 2000}));
  EXPECT_EQ(RaceRounds(2000, {.first = 300}), (std::vector<int64_t>{300, 600, 1200, 2000}));
  EXPECT_EQ(RaceRounds(400, {.first = 500}), (std::vector<int64_t>{400}));
  EXPECT_EQ(RaceRounds(2000, {.on = false, .first = 500}), (std::vector<int64_t>{2000}));
}

TEST(RaceUnit, TheBestOnesStay) {
  const std::vector<float> good(400, 1), bad(400, 0);
  std::vector<float> fair(400, 1);
  fair[0] = 0;
  const std::vector<std::span<const float>> values = {bad, good, fair, bad};
  EXPECT_EQ(Losers(values, 1, {.keep = 1}), (std::vector<size_t>{0, 3}));
  EXPECT_EQ(Losers(values, 1, {.keep = 2}), (std::vector<size_t>{0, 3}));
  EXPECT_EQ(Losers(values, 1, {.keep = 4}), (std::vector<size_t>{}));
  EXPECT_EQ(Losers(values, 1, {.on = false}), (std::vector<size_t>{}));
}

/// Plays races of candidates with the given chances of being right, half of it common to all;
/// returns how often candidate 0 was dropped.
double DropRate(const std::vector<double>& accuracy, const RaceOptions& options, int races,
                bool real_values) {
  constexpr int64_t kSamples = 400;
  Rng rng(7, 0, "races");
  const std::vector<int64_t> rounds = RaceRounds(kSamples, options);
  int dropped = 0;
  for (int race = 0; race < races; ++race) {
    std::vector<std::vector<float>> values(accuracy.size());
    for (int64_t s = 0; s < kSamples; ++s) {
      const double difficulty = rng.Uniform();
      for (size_t c = 0; c < accuracy.size(); ++c) {
        const double chance = (difficulty + rng.Uniform()) / 2;  // symmetric around one half
        const double noise = real_values ? rng.Uniform() : 0;
        values[c].push_back(static_cast<float>((chance < accuracy[c] ? 1.0 : 0.0) + noise));
      }
    }
    bool out = false;
    for (size_t r = 0; r + 1 < rounds.size() && !out; ++r) {
      std::vector<std::span<const float>> seen;
      for (const auto& all : values) seen.emplace_back(all.data(), static_cast<size_t>(rounds[r]));
      const auto losers = Losers(seen, static_cast<int64_t>(rounds.size()) - 1, options);
      out = std::find(losers.begin(), losers.end(), size_t{0}) != losers.end();
    }
    dropped += out;
  }
  return static_cast<double>(dropped) / races;
}

TEST(RaceProperty, EqualCandidatesAreDroppedNoMoreOftenThanStated) {
  constexpr int kRaces = 10000;
  for (const bool real_values : {false, true}) {
    const double rate = DropRate({0.5, 0.5}, {.first = 100, .error = 0.05}, kRaces, real_values);
    // Three standard errors of a rate of 0.05 in 10,000 races.
    EXPECT_LE(rate, 0.05 + 3 * std::sqrt(0.05 * 0.95 / kRaces));
    EXPECT_GT(rate, 0.001) << "the rule never drops anything";
  }
  EXPECT_LE(DropRate({0.5, 0.5, 0.5, 0.5, 0.5}, {.first = 100, .error = 0.05}, kRaces / 5, false),
            0.065);
}

TEST(RaceProperty, AClearLoserLeavesEarly) {
  EXPECT_GE(DropRate({0.3, 0.6}, {.first = 100, .error = 0.05}, 500, false), 0.95);
}

}  // namespace
}  // namespace espalier
