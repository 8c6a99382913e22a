#include "docs/examples/group_lasso.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/graph/builder.h"

namespace espalier {
namespace {

TEST(GroupLassoUnit, PullsByTheDirectionOfTheWholeUnit) {
  Builder b("two", 1);
  Network network =
      b.Finish({b.Linear("out", b.Linear("in", b.Input("x", {2, 1}), 1, 2, false), 2, 1, false)});
  network.store.Set("in.weight", at::tensor({3.F, 0.F}).view({2, 1}));
  network.store.Set("out.weight", at::tensor({-4.F, 2.F}).view({1, 2}));
  network.store.SetRequiresGrad(true);
  const GroupLasso lasso({.lambda = 0.1});
  const UnitWeights weights(BuildSpace(network), network.store,
                            [&](const GroupView::Slice& slice) { return lasso.Counts(slice); });
  Penalty(lasso, weights, /*memory=*/{}).backward();
  // Norms sqrt(9 + 16) = 5 and sqrt(0 + 4) = 2; times 0.1.
  EXPECT_TRUE(
      at::allclose(network.store.Get("in.weight").grad().flatten(), at::tensor({0.06F, 0.F})));
  EXPECT_TRUE(
      at::allclose(network.store.Get("out.weight").grad().flatten(), at::tensor({-0.08F, 0.1F})));
}

}  // namespace
}  // namespace espalier
