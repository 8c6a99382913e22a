#pragma once

#include <gtest/gtest.h>

#include "env/cost/cost.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "tests/env/space/random_selection.h"

namespace espalier {

/// Random cuts of a network are exact.
inline void ExpectExact(const Network& net, const SpaceOptions& options, uint64_t seeds = 3) {
  const Space space = BuildSpace(net, options);
  ASSERT_FALSE(space.groups().empty());
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    SCOPED_TRACE(seed);
    const Selection selection = RandomSelection(space, seed);
    const Plan plan = MakePlan(space, selection);
    const Network cut = Cut(space.network(), plan);
    const Certificate certificate = Certify(space, selection, plan, cut, seed);
    EXPECT_TRUE(certificate.passed) << certificate.failure << " " << certificate.max_rel_error
                                    << " " << certificate.max_rel_error_f64;
    // The polynomial says what the cut network's own count is.
    std::vector<double> kept;
    for (const auto& units : selection) kept.push_back(static_cast<double>(units.size()));
    const Cost predicted = CostModel(space).Evaluate(kept);
    const Cost counted = CostModel(BuildSpace(cut)).Full();
    EXPECT_DOUBLE_EQ(predicted.macs, counted.macs);
    EXPECT_DOUBLE_EQ(predicted.params, counted.params);
  }
}

}  // namespace espalier
