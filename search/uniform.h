#pragma once

#include <string>

#include "search/strategy.h"

namespace espalier {

struct UniformConfig {
  std::string criterion = "l1_norm";  ///< with options: "l2_norm(p=3)"
};
Schema Describe(UniformConfig& config);

/// The same keep ratio in every group, the units chosen by a criterion: the baseline every search
/// has to beat.
///
/// Source   Li et al., arXiv:1608.08710, with one ratio for all layers.
/// Random   what the criterion draws.
/// Cost     one pass over the weights; for criteria that need data 10 batches of 128 images.
class Uniform final : public Strategy {
 public:
  /// Errors: kConfig for an unknown criterion.
  explicit Uniform(const UniformConfig& config);
  SearchResult Run(const Environment& environment, SearchContext& context) const override;

 private:
  const UniformConfig config_;
};

}  // namespace espalier
