// Scores a group with the own criterion and with one that came with Espalier; exit code 0 when both
// are right.
#include <ATen/ATen.h>

#include <cstdio>

#include "criteria/criterion.h"
#include "search/strategy.h"

int main() {
  using namespace espalier;
  const GroupView group{
      .name = "g",
      .units = 3,
      .slices = {MakeSlice("w", MemberRole::kProducer,
                           at::tensor({-2.0, 1.0, 4.0}, at::kDouble).view({3, 1}))}};
  const auto& registry = Registry<Criterion>::Global();
  const at::Tensor own = registry.Create("criterion", "unit_index")->Score(group, 1);
  const at::Tensor theirs = registry.Create("criterion", "l1_norm")->Score(group, 1);
  const bool right = own.equal(at::tensor({0.0, 1.0, 2.0}, at::kDouble)) &&
                     theirs.equal(at::tensor({2.0, 1.0, 4.0}, at::kDouble)) &&
                     !Registry<Strategy>::Global().Names().empty();
  std::puts(right ? "both criteria work" : "WRONG");
  return right ? 0 : 1;
}
