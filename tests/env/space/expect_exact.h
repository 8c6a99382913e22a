#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "env/cost/cost.h"
#include "env/graph/executor.h"
#include "env/graph/sample_inputs.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "tests/env/space/random_selection.h"

namespace espalier {

/// Zeros where a plan cuts make the uncut graph compute what the cut one does.
inline void ExpectMaskedLikeCut(const Space& space, const Plan& plan, const Network& cut) {
  const at::NoGradGuard no_grad;
  Network masked = space.network();
  masked.store = MaskStore(masked.store, plan);
  const std::vector<Tensor> inputs = SampleInputs(cut, 2);
  const auto outputs = [&](const Network& network) {
    const Executor executor(network.graph);
    return executor.Run(executor.Bind(network.store), inputs);
  };
  const std::vector<Tensor> found = outputs(masked), wanted = outputs(cut);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Tensor difference = (found[i] - wanted[i]).to(at::kDouble);
    EXPECT_LE(difference.norm().item<double>(),
              1e-4 * (wanted[i].to(at::kDouble).norm().item<double>() + 1e-6));
  }
}

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
    if (std::ranges::all_of(space.groups(), &Group::exact)) ExpectMaskedLikeCut(space, plan, cut);
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
