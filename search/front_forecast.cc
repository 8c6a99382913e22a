#include "search/front_forecast.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "env/base/error.h"
#include "env/base/memory_error.h"

namespace espalier {
namespace {

/// Fewer unseen samples than this tell less than those the search saw.
constexpr int64_t kFew = 100;

}  // namespace

Interval ConfidenceInterval(const Score& score) {
  constexpr double kNormal = 1.959964;  // 97.5 % quantile
  const double p = score.value, error = score.standard_error;
  Interval interval{p - kNormal * error, p + kNormal * error};
  if (HasFact(score.metric, kPercent)) {
    // n: error^2 = p (1 - p) / n
    const double n = error > 0 ? p * (1 - p) / (error * error) : static_cast<double>(score.samples);
    const double z2 = kNormal * kNormal / n;
    const double centre = (p + z2 / 2) / (1 + z2);
    const double half = std::sqrt(p * (1 - p) * z2 + z2 * z2 / 4) / (1 + z2);
    interval = {std::max(centre - half, 0.0), std::min(centre + half, 1.0)};
  }
  return {std::min(interval.low, p), std::max(interval.high, p)};  // whatever was rounded
}

Forecaster::Forecaster(const Environment& environment, int64_t samples, Rng rng,
                       std::function<void(Network&, const Selection&)> prepare)
    : env_(environment), searched_(environment.splits->validation()), prepare_(std::move(prepare)) {
  const int64_t count = searched_.count();
  if (samples == 0 || samples >= count) return;
  const Tensor shuffled = at::tensor(rng.Permutation(count), at::kLong);
  if (count - samples >= kFew)
    unseen_ = searched_.Chosen(shuffled.narrow(0, samples, count - samples));
  searched_ = searched_.Chosen(shuffled.narrow(0, 0, samples));
}

std::string Forecaster::Source() const {
  const bool trained_on = env_.splits->config().seen == "train";
  return Str(unseen() > 0
                 ? Str(unseen(), " unseen validation samples")
                 : Str(searched_.count(), " samples the search saw, and chose by: no interval"),
             trained_on ? "; the given weights had been trained on them" : "");
}

Forecast Forecaster::Of(const Selection& selection) const {
  try {
    return Judged(selection);
  } catch (const std::exception& error) {  // a trial like those of the search
    if (IsFaultOfAll(error)) throw;
    return {.cause = CauseOf(error)};
  }
}

Forecast Forecaster::Judged(const Selection& selection) const {
  Network cut = Cut(env_.network(), MakePlan(env_.space, selection));
  cut.store = cut.store.To(env_.device);
  if (prepare_) prepare_(cut, selection);
  Forecast forecast;
  Score score = Evaluate(cut, searched_, env_.task, env_.evaluation);
  forecast.searched = score.value;
  if (unseen() > 0) {
    score = Evaluate(cut, unseen_, env_.task, env_.evaluation);
    forecast.interval = ConfidenceInterval(score);
  }
  forecast.value = score.value;
  // A figure may be finite where outputs are not (argmax has an answer to anything): the loss is
  // not.
  const bool finite = std::isfinite(forecast.searched) && std::isfinite(score.value) &&
                      std::isfinite(score.standard_error) && !std::isnan(score.loss);
  if (!finite) return {.cause = "outputs or figure of the cut network are not finite"};
  return forecast;
}

}  // namespace espalier
