#include "env/latency/meter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/graph/builder.h"

namespace espalier {
namespace {

Network Doubled() {
  Builder b("doubled");
  return b.Finish({b.Linear("fc", b.Input("x", {2, 4}), 4, 4)});
}

/// A clock on which the n-th timed work takes durations[n] seconds; the last one for ever.
struct FakeClock {
  std::vector<double> durations;
  size_t reads = 0;
  double now = 0;
  double operator()() {
    if (reads++ % 2 == 1) now += durations[std::min(reads / 2, durations.size()) - 1];
    return now;
  }
};

double Measure(int64_t repeats, const std::vector<double>& durations, size_t* runs = nullptr) {
  auto clock = std::make_shared<FakeClock>(FakeClock{durations});
  DeviceMeter meter(repeats, [clock] { return (*clock)(); });
  const double ms = meter.Milliseconds(Doubled(), {at::ones({2, 4})}, {});
  if (runs != nullptr) *runs = clock->reads / 2;
  return ms;
}

TEST(DeviceMeterUnit, TakesTheLowerQuartileAfterWarmUps) {
  // Three warm-ups of 9 ms; eight runs, two of which are disturbed: 1 1 1 2 2 2 50 50, quartile 1.
  size_t runs = 0;
  const double ms =
      Measure(8, {.009, .009, .009, .001, .05, .002, .001, .05, .002, .001, .002, .004}, &runs);
  EXPECT_DOUBLE_EQ(ms, 1);
  EXPECT_EQ(runs, 3u + 8u);
}

TEST(DeviceMeterUnit, RunsShortWorkOftenAndLongWorkFewTimes) {
  size_t runs = 0;
  EXPECT_NEAR(Measure(5, {1e-5}, &runs), 1e-2, 1e-9);
  EXPECT_GE(runs, 100u);  // a millisecond in all
  EXPECT_NEAR(Measure(1000, {1e-7}, &runs), 1e-4, 1e-9);
  EXPECT_LE(runs, 203u);
  EXPECT_DOUBLE_EQ(Measure(50, {2.0}, &runs), 2e3);
  EXPECT_EQ(runs, 1u + 3u);  // half a second is over: one warm-up, three runs
}

TEST(DeviceMeterUnit, LeavesWhatInPlaceOperatorsWriteAsItWas) {
  Network network;
  Builder b("add");
  const ValueId x = b.Buffer("x", at::full({3}, 1.0)), y = b.Buffer("y", at::full({3}, 2.0));
  network = b.Finish({b.Call("aten::add_", "Tensor", {{"self", x}, {"other", y}})});
  auto clock = std::make_shared<FakeClock>(FakeClock{{1e-3}});
  DeviceMeter meter(4, [clock] { return (*clock)(); });
  meter.Milliseconds(network, {}, {"x"});
  // Before every run x is written anew: it is one addition away, not seven.
  EXPECT_TRUE(at::equal(network.store.Get("x"), at::full({3}, 3.0)));
}

TEST(DeviceMeterUnit, WritesAnewWhatAnExpandedArgumentHolds) {
  Builder b("token");
  const Tensor token = at::full({1, 3}, 2.0).expand({4, 3});  // as a class token of a batch
  const ValueId x = b.Buffer("x", token), y = b.Buffer("y", at::full({4, 3}, 1.0));
  const Network network = b.Finish({b.Call("aten::add", "Tensor", {{"self", x}, {"other", y}})});
  auto clock = std::make_shared<FakeClock>(FakeClock{{1e-3}});
  DeviceMeter meter(4, [clock] { return (*clock)(); });
  EXPECT_DOUBLE_EQ(meter.Milliseconds(network, {}, {"x"}), 1);
  EXPECT_TRUE(at::equal(network.store.Get("x"), at::full({4, 3}, 2.0)));
}

}  // namespace
}  // namespace espalier
