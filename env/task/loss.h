#pragma once

#include <memory>
#include <string>
#include <vector>

#include "env/base/registry.h"
#include "env/task/outcome.h"

namespace espalier {

struct LossOptions {
  double label_smoothing = 0;  ///< cross_entropy: share of the target spread over all classes
  double temperature = 1;      ///< kl: of both softmaxes
  int64_t class_axis = 0;      ///< of comparisons with the uncut network: as AgainstUncut
};

/// What training makes small. Keeps no state.
class Loss {
 public:
  virtual ~Loss() = default;
  /// Mean over the batch, differentiable. -> []
  /// Errors   kData, kModel when outputs and targets do not fit it.
  virtual Tensor Mean(const Outcome& outcome, const LossOptions& options) const = 0;
};

/// A weighted sum of registered losses: "cross_entropy", "cross_entropy + 0.5 kl".
class Objective {
 public:
  /// Errors: kConfig for text that is none, with the nearest loss.
  explicit Objective(const std::string& text, const LossOptions& options = {});

  Tensor Mean(const Outcome& outcome) const;  ///< [], differentiable
  bool Has(const char* fact) const;           ///< one of its losses has it: kNeedsTargets, ...
  bool OnlyCompares() const;                  ///< all of its losses have kNeedsUncut
  const std::string& text() const { return text_; }

 private:
  struct Term {
    double weight = 1;
    std::string name;
    std::unique_ptr<const Loss> loss;
    bool Has(const char* fact) const;
  };
  std::string text_;
  LossOptions options_;
  std::vector<Term> terms_;
};

}  // namespace espalier
