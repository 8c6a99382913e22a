#include "search/sparsify.h"

#include <ATen/ATen.h>

#include <optional>

#include "criteria/regularisers/regulariser.h"

namespace espalier {
namespace {

constexpr int64_t kPercentiles = 21;

/// A regulariser on the weights of one training.
class UnitPenalty final : public WeightPenalty {
 public:
  UnitPenalty(const Space& space, const SparsifyConfig& config)
      : space_(space), text_(config.regulariser), regulariser_(MakeRegulariser(text_)) {
    penalties_ = at::zeros({config.train.epochs}, at::kDouble);
    norms_ = at::zeros({config.train.epochs + 1, kPercentiles}, at::kDouble);
  }

  std::string Name() const override { return Str("the regulariser '", text_, "'"); }
  std::string Identity() const override { return text_; }

  void Attach(const ParameterStore& weights) override {
    acted_.emplace(space_, weights,
                   [this](const GroupView::Slice& slice) { return regulariser_->Counts(slice); });
    all_.emplace(space_, weights, [](const GroupView::Slice& slice) { return !slice.is_bias; });
    memory_ = at::zeros({acted_->units()}, acted_->options().requires_grad(false));
    RecordNorms(0);
  }

  Tensor Value() override { return Penalty(*regulariser_, *acted_, memory_); }

  void EndEpoch(int64_t epoch) override {
    const at::NoGradGuard no_grad;
    penalties_[epoch - 1] = Value();
    RecordNorms(epoch);
    regulariser_->Remember(*acted_, regulariser_->Sizes(*acted_), memory_);
  }

  std::vector<NamedTensor> State() const override {
    return {{"memory", memory_}, {"penalties", penalties_}, {"norms", norms_}};
  }

  nlohmann::json Info() const {
    nlohmann::json rows = nlohmann::json::array();
    for (int64_t epoch = 0; epoch < norms_.size(0); ++epoch) rows.push_back(List(norms_[epoch]));
    return {{"regulariser", text_}, {"penalty", List(penalties_)}, {"norms", rows}};
  }

 private:
  static std::vector<double> List(const Tensor& values) {
    return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
  }

  void RecordNorms(int64_t epoch) {
    const at::NoGradGuard no_grad;
    const Tensor norms = SquaredNorms(*all_).sqrt();
    const Tensor largest = all_->LargestOfGroup(norms);
    const Tensor relative = at::where(largest.gt(0), norms / largest, at::zeros_like(norms));
    const Tensor sorted = std::get<0>(relative.to(at::kCPU, at::kDouble).sort());
    const Tensor places =
        at::linspace(0, 1, kPercentiles, at::kDouble) * static_cast<double>(sorted.size(0) - 1);
    norms_[epoch] = sorted.index_select(0, places.round().to(at::kLong));
  }

  const Space& space_;
  const std::string text_;
  const std::unique_ptr<const Regulariser> regulariser_;
  std::optional<UnitWeights> acted_, all_;
  Tensor memory_;             // [total units]
  Tensor penalties_, norms_;  // what the report shows
};

}  // namespace

Schema Describe(SparsifyConfig& config) {
  Schema schema;
  schema.Add("regulariser", &config.regulariser,
             "what makes units small: NAME or NAME(key=value, ...); `espalier list regularisers`");
  return schema.Append(Describe(config.train));
}

SparsifyResult Sparsify(const Environment& environment, const SparsifyConfig& config,
                        const SearchContext& context,
                        const std::function<void(const EpochRecord&)>& on_epoch) {
  UnitPenalty penalty(environment.space, config);
  const Splits& splits = environment.Data("sparsify");
  Network network = environment.network();
  network.store = network.store.Clone().To(environment.device);
  TrainResult trained = Train(network, splits, environment.task, config.train, context.seed,
                              context.folder, on_epoch, &penalty);
  network.store = network.store.To(at::kCPU);
  return {std::move(network), std::move(trained.history), penalty.Info()};
}

}  // namespace espalier
