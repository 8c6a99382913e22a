#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "criteria/sample_gradients.h"
#include "criteria/statistics.h"
#include "criteria/unit_layout.h"

namespace espalier::internal {

/// Sums over steps (batches or samples) of what the gradients of the grouped parameters say.
class GradientCollector {
 public:
  /// needs: what is wanted beyond the gradients themselves and, of samples, their squares. Makes
  /// leaves of the store's parameters, which it borrows with the space.
  /// Errors: kConfig when the Fisher blocks take more than calibration.max_fisher_bytes.
  GradientCollector(const Space& space, const ParameterStore& store, const Needs& needs,
                    const Calibration& calibration);

  const std::map<std::string, Tensor>& leaves() const { return leaves_; }
  void TakeBatch(const Gradients& gradients) { Take(gradients, /*samples=*/false); }
  void TakeSamples(const Gradients& gradients) { Take(gradients, /*samples=*/true); }
  /// Each once, at the end.
  void FinishBatches(Statistics& statistics) const;
  void FinishSamples(Statistics& statistics) const;

 private:
  struct Sum {
    Tensor weight{};  // leaf
    Tensor gradient{}, abs_product{}, fisher{}, abs_expansion{};
  };
  struct MemberSum {
    Tensor absolute{}, square{};  // |u|, u^2: [units]
    Tensor block_square{};        // u^2 block by block: [units]
    Tensor blocks{};              // g g^T: [units, blocks, block, block]
  };

  void Take(const Gradients& gradients, bool samples);
  Tensor BlockSquares(const UnitLayout& layout, const Tensor& product, const Tensor& sum) const;
  void AddBlockProducts(Tensor& total, const UnitLayout& layout, const Tensor& gradient) const;
  void CheckFisherBytes(const Calibration& calibration) const;
  Tensor Mean(const Tensor& sum) const;
  /// Of every member that has gradients, with where its statistics go.
  void ForEachSum(Statistics& statistics,
                  const std::function<void(const MemberSum&, ProductStatistics&)>& take) const;

  const Space& space_;
  const bool expansion_, block_products_, blocks_;
  const int64_t block_;
  std::map<std::string, Sum> sums_;              // by canonical name
  std::map<std::string, Tensor> leaves_;         // the weights of sums_
  std::vector<std::vector<MemberSum>> members_;  // [group][member]
  int64_t steps_ = 0;
};

}  // namespace espalier::internal
