#include "env/graph/generator_scope.h"

#include <ATen/ATen.h>
#include <ATen/core/enum_tag.h>

#include <algorithm>
#include <mutex>

namespace espalier {

bool UsesDefaultGenerator(const Graph& graph) {
  return std::ranges::any_of(graph.ops, [](const Op& op) {
    return op.handle.hasTag(at::Tag::nondeterministic_seeded) ||
           op.handle.operator_name().name.find("dropout") != std::string::npos;
  });
}

GeneratorScope::GeneratorScope(bool on, at::Device device, uint64_t seed) {
  if (!on) return;
  generator_ = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator_->mutex());
  saved_ = generator_->get_state();
  generator_->set_current_seed(seed);
}

GeneratorScope::~GeneratorScope() {
  if (!generator_) return;
  const std::lock_guard<std::mutex> lock(generator_->mutex());
  generator_->set_state(saved_);
}

}  // namespace espalier
