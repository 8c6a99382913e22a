#include "env/task/loss.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <sstream>

namespace espalier {
namespace {

Tensor ClassLoss(const Classified& classified, double label_smoothing) {
  return at::cross_entropy_loss(classified.logits, classified.classes, {}, at::Reduction::Mean,
                                /*ignore_index=*/-100, label_smoothing);
}

template <typename OfPair>
Tensor MeanOver(const std::vector<ValuePair>& pairs, const OfPair& loss_of) {
  Tensor sum;
  for (const ValuePair& pair : pairs) {
    const Tensor loss = loss_of(pair.value, pair.wanted);
    sum = sum.defined() ? sum + loss : loss;
  }
  return pairs.size() == 1 ? sum : sum / static_cast<double>(pairs.size());
}

Tensor MeanSquare(const Tensor& value, const Tensor& wanted) { return at::mse_loss(value, wanted); }

/// Cross-entropy of logits against classes, at every position of the target.
class CrossEntropy final : public Loss {
 public:
  explicit CrossEntropy(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions& options) const override {
    return ClassLoss(AgainstTargets(outcome, "cross_entropy"), options.label_smoothing);
  }
};

/// Negative log-likelihood of every next token; mean over the tokens that count.
class NextTokenNll final : public Loss {
 public:
  explicit NextTokenNll(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return ClassLoss(AgainstNextTokens(outcome, "next_token_nll"), /*label_smoothing=*/0);
  }
};

class Mse final : public Loss {
 public:
  explicit Mse(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return MeanOver(ValuesAndTargets(outcome, "mse"), MeanSquare);
  }
};

class Bce final : public Loss {
 public:
  explicit Bce(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return MeanOver(ValuesAndTargets(outcome, "bce"), [](const Tensor& value, const Tensor& want) {
      return at::binary_cross_entropy_with_logits(value, want);
    });
  }
};

/// T^2 KL(uncut || cut) of softmaxes at temperature T: Hinton et al., arXiv:1503.02531, §2.
class Kl final : public Loss {
 public:
  explicit Kl(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions& options) const override {
    const double t = options.temperature;
    const LogitPair pair = AgainstUncut(outcome, "kl", options.class_axis);
    const Tensor log_p = at::log_softmax(pair.logits / t, 1);
    const Tensor log_q = at::log_softmax(pair.uncut / t, 1);
    return (log_q.exp() * (log_q - log_p)).sum(1).mean() * (t * t);
  }
};

/// Cross-entropy against the class the uncut network answers. Unlike kl it has a gradient at the
/// uncut network itself, where p = q but p is no answer: what gradient criteria need.
class PseudoLabel final : public Loss {
 public:
  explicit PseudoLabel(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions& options) const override {
    const LogitPair pair = AgainstUncut(outcome, "pseudo_label", options.class_axis);
    return ClassLoss({pair.logits, pair.uncut.argmax(1)}, /*label_smoothing=*/0);
  }
};

/// mse_outputs with noise on the uncut outputs, of a hundredth of their spread: the gradient at the
/// uncut network, which mse_outputs lacks, then measures how much the outputs move. The noise is
/// the same in every batch.
class DisturbedMse final : public Loss {
  static constexpr double kShare = 0.01;
  static constexpr uint64_t kSeed = 1;

 public:
  explicit DisturbedMse(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return MeanOver(ValuesAndUncut(outcome, "disturbed_mse"), [](const Tensor& value,
                                                                 const Tensor& uncut) {
      auto generator = at::make_generator<at::CPUGeneratorImpl>(kSeed);
      const Tensor noise = at::randn(uncut.sizes(), generator, uncut.options().device(at::kCPU));
      return at::mse_loss(
          value, uncut + noise.to(uncut.device()) * (kShare * uncut.std(/*unbiased=*/false)));
    });
  }
};

/// Positions that count where features have the targets' positions, [batch, token, ...]: those
/// whose class is not -100. Undefined: all count.
Tensor CountedPositions(const Outcome& outcome, const Tensor& feature) {
  if (outcome.batch.targets.empty()) return {};
  const Tensor& classes = outcome.batch.targets.front();
  if (classes.is_floating_point() || classes.dim() != 2 || feature.dim() != 3 ||
      classes.sizes() != feature.sizes().slice(0, 2))
    return {};
  return classes.ne(-100).unsqueeze(-1);
}

/// Sum over the features of distance(cut, uncut, mean square over what counts).
template <typename Distance>
Tensor SumOverFeatures(const Outcome& outcome, const std::string& name, const Distance& distance) {
  if (outcome.features.empty())
    throw Error(ErrorKind::kConfig,
                Str("loss '", name,
                    "' compares features inside the network, which only fine-tuning "
                    "of a cut network records"),
                Str("[finetune] loss = \"cross_entropy + ", name, "\""));
  Tensor sum;
  for (const auto& [value, uncut] : outcome.features) {
    const Tensor counted = CountedPositions(outcome, value);
    const auto mean_square = [&](const Tensor& difference) {
      const Tensor wide = difference.element_size() < 4 ? difference.to(at::kFloat) : difference;
      const Tensor squares = wide.square();
      if (!counted.defined()) return squares.mean();
      return (squares * counted).sum() / (counted.sum() * squares.size(-1)).clamp_min(1);
    };
    const Tensor loss = distance(value, uncut, mean_square);
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

/// Sum over the features of MSE(cut, uncut) / (MSE(uncut, 0) + eps).
class SquareHead final : public Loss {
  static constexpr double kEps = 1e-12;  // features that are all zero stay finite

 public:
  explicit SquareHead(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return SumOverFeatures(outcome, "square_head",
                           [](const Tensor& value, const Tensor& uncut, const auto& mean_square) {
                             return mean_square(value - uncut) / (mean_square(uncut) + kEps);
                           });
  }
};

/// Sum over the features of MSE(cut, uncut): large features weigh more.
class MseFeatures final : public Loss {
 public:
  explicit MseFeatures(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return SumOverFeatures(outcome, "mse_features",
                           [](const Tensor& value, const Tensor& uncut, const auto& mean_square) {
                             return mean_square(value - uncut);
                           });
  }
};

class MseOutputs final : public Loss {
 public:
  explicit MseOutputs(const NoConfig&) {}
  Tensor Mean(const Outcome& outcome, const LossOptions&) const override {
    return MeanOver(ValuesAndUncut(outcome, "mse_outputs"), MeanSquare);
  }
};

const Registration<Loss, CrossEntropy, NoConfig> register_cross_entropy(
    {.name = "cross_entropy",
     .summary = "of logits against classes",
     .source = "torch.nn.CrossEntropyLoss",
     .facts = {kNeedsTargets, kNeedsClasses}});
const Registration<Loss, NextTokenNll, NoConfig> register_next_token_nll(
    {.name = "next_token_nll",
     .summary = "of logits [batch, token, word] against the next token of targets, else of inputs",
     .source = "cross-entropy, shifted by one"});
const Registration<Loss, Mse, NoConfig> register_mse({.name = "mse",
                                                      .summary = "mean square of output - target",
                                                      .source = "torch.nn.MSELoss",
                                                      .facts = {kNeedsTargets}});
const Registration<Loss, Bce, NoConfig> register_bce(
    {.name = "bce",
     .summary = "binary cross-entropy of logits against targets in 0..1 of the same shape",
     .source = "torch.nn.BCEWithLogitsLoss",
     .facts = {kNeedsTargets}});
const Registration<Loss, Kl, NoConfig> register_kl(
    {.name = "kl",
     .summary = "divergence of the softmax from the uncut network's, at a temperature",
     .source = "arXiv:1503.02531 §2",
     .facts = {kNeedsUncut}});
const Registration<Loss, PseudoLabel, NoConfig> register_pseudo_label(
    {.name = "pseudo_label",
     .summary = "cross-entropy against the uncut network's answer; for gradient criteria",
     .source = "ours; Lee, Pseudo-Label, ICML workshop 2013",
     .facts = {kNeedsUncut}});
const Registration<Loss, DisturbedMse, NoConfig> register_disturbed_mse(
    {.name = "disturbed_mse",
     .summary = "mse_outputs with a little noise on the uncut outputs; for gradient criteria",
     .source = "Chen et al., SlimSAM, arXiv:2312.05284 (disturbed Taylor)",
     .facts = {kNeedsUncut}});
const Registration<Loss, SquareHead, NoConfig> register_square_head(
    {.name = "square_head",
     .summary = "relative distance of features from the uncut network's, block by block",
     .source = "Kurtic et al., SquareHead, arXiv:2310.06927",
     .facts = {kNeedsUncut, kNeedsFeatures}});
const Registration<Loss, MseFeatures, NoConfig> register_mse_features(
    {.name = "mse_features",
     .summary =
         "mean square of the features' distance from the uncut network's, summed over blocks",
     .source = "Kim et al., BK-SDM, arXiv:2305.15798 (feature distillation)",
     .facts = {kNeedsUncut, kNeedsFeatures}});
const Registration<Loss, MseOutputs, NoConfig> register_mse_outputs(
    {.name = "mse_outputs",
     .summary = "mean square of the outputs' distance from the uncut network's",
     .source = "Kim et al., BK-SDM, arXiv:2305.15798 (output distillation)",
     .facts = {kNeedsUncut}});

}  // namespace

Objective::Objective(const std::string& text, const LossOptions& options)
    : text_(text), options_(options) {
  const auto fail = [&](const std::string& part) {
    throw Error(ErrorKind::kConfig, Str("loss \"", text, "\": '", part, "' is not [NUMBER] LOSS"),
                "write a loss, or a sum such as \"cross_entropy + 0.5 kl\" (espalier list losses)");
  };
  std::istringstream parts(text + "+");
  for (std::string part; std::getline(parts, part, '+');) {
    std::istringstream words(part);
    Term term;
    if (!(words >> term.weight)) {
      words.clear();
      words.seekg(0);
      term.weight = 1;
    }
    std::string rest;
    if (!(words >> term.name) || words >> rest || !(term.weight > 0)) fail(part);
    term.loss = Registry<Loss>::Global().Create("loss", term.name);
    terms_.push_back(std::move(term));
  }
  const auto smooths = [](const Term& term) { return term.name == "cross_entropy"; };
  if (options.label_smoothing > 0 && std::none_of(terms_.begin(), terms_.end(), smooths))
    throw Error(ErrorKind::kConfig, Str("label_smoothing has no meaning for the loss \"", text,
                                        "\": it spreads the target of cross_entropy"));
}

Tensor Objective::Mean(const Outcome& outcome) const {
  Tensor sum;
  for (const Term& term : terms_) {
    Tensor loss = term.loss->Mean(outcome, options_);
    if (term.weight != 1) loss = loss * term.weight;
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

bool Objective::Term::Has(const char* fact) const {
  const auto& facts = Registry<Loss>::Global().Get("loss", name).info.facts;
  return std::find(facts.begin(), facts.end(), fact) != facts.end();
}

bool Objective::Has(const char* fact) const {
  return std::any_of(terms_.begin(), terms_.end(), [&](const Term& t) { return t.Has(fact); });
}

bool Objective::OnlyCompares() const {
  return std::all_of(terms_.begin(), terms_.end(),
                     [](const Term& term) { return term.Has(kNeedsUncut); });
}

}  // namespace espalier
