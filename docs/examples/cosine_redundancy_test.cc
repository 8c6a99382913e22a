#include "docs/examples/cosine_redundancy.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TEST(CosineRedundancyUnit, ParallelUnitsScoreLow) {
  // Units 0 and 1 are parallel, unit 2 is perpendicular to both.
  const Tensor weight = at::tensor({1.0, 0.0, -3.0, 0.0, 0.0, 2.0}, at::kDouble).view({3, 2});
  GroupView view{.name = "layer", .units = 3, .slices = {}};
  view.slices.push_back(MakeSlice("w", MemberRole::kProducer, weight));
  const Tensor scores = MakeCriterion("cosine_redundancy")->Score(view, 0);
  // Mean |cos| with itself included: (1 + 1 + 0) / 3 and (0 + 0 + 1) / 3.
  EXPECT_NEAR(scores[0].item<double>(), 1.0 / 3, 1e-12);
  EXPECT_NEAR(scores[1].item<double>(), 1.0 / 3, 1e-12);
  EXPECT_NEAR(scores[2].item<double>(), 2.0 / 3, 1e-12);
}

}  // namespace
}  // namespace espalier
