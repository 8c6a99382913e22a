#include "criteria/random.h"

#include "env/base/rng.h"

namespace espalier {

Tensor RandomCriterion::Score(const GroupView& group, uint64_t seed) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  Rng rng(seed, 0, "criterion/random/" + group.name);
  std::vector<double> scores;
  for (int64_t unit = 0; unit < group.units; ++unit) scores.push_back(rng.Uniform());
  return at::tensor(scores, at::kDouble);
}

ESPALIER_REGISTER_CRITERION(RandomCriterion, NoConfig,
                            {.name = "random",
                             .summary = "uniform random scores, seeded",
                             .source = "control",
                             .facts = {kDataFree, kIgnoresWeights, "deterministic"}})

}  // namespace espalier
