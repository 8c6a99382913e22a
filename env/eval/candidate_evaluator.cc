#include "env/eval/candidate_evaluator.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>

#include "env/base/clock.h"
#include "env/base/error.h"
#include "env/base/memory_error.h"
#include "env/eval/evaluator.h"

namespace espalier {

struct CandidateEvaluator::Candidate {
  const Selection* selection = nullptr;
  std::string key{};
  std::vector<float> values{};  // [samples], the first `seen` are known
  int64_t seen = 0;
  int64_t raced = 0;  // samples it stayed in this race for: the score does not depend on memory
  std::shared_ptr<const CandidateNetwork::Bound> bound{};  // empty: cut again for every batch
  std::optional<InferenceNetwork> own{};                   // where options.prepare is set
  Signature signature{};
  std::atomic<bool> failed = false;
  std::string cause{};  // guarded by Totals::mutex
};

struct CandidateEvaluator::Totals {
  std::mutex mutex;
  Counters counters;
  std::atomic<int64_t> ops_run = 0, ops_due = 0;
  std::atomic<int64_t> bound_bytes = 0;
};

namespace {

constexpr int64_t kBoundBytes = int64_t{1} << 30;

std::string KeyOf(const Selection& selection) {
  std::string key;
  for (const auto& kept : selection) {
    const auto size = static_cast<int64_t>(kept.size());
    key.append(reinterpret_cast<const char*>(&size), sizeof(size));
    key.append(reinterpret_cast<const char*>(kept.data()), kept.size() * sizeof(int64_t));
  }
  return key;
}

double MeanOfFirst(const std::vector<float>& values, int64_t count) {
  double sum = 0;
  for (const float value : std::span(values).first(static_cast<size_t>(count))) sum += value;
  return sum / static_cast<double>(count);
}

}  // namespace

CandidateEvaluator::CandidateEvaluator(const Space& space, const ComparisonSet& set,
                                       const CandidateOptions& options)
    : space_(space),
      set_(set),
      options_(options),
      network_(space, options.dtype, options.device),
      totals_(std::make_unique<Totals>()) {
  ESPALIER_CHECK(options.batch_size > 0 && options.workers >= 0 && options.threads >= 0,
                 "batch size ", options.batch_size, ", ", options.workers, " workers of ",
                 options.threads, " threads");
  options_.batch_size =
      InferenceBatch(space.network(), options.batch_size, options.dtype, options.device);
  if (options.masked && !options.prepare) masked_.emplace(network_);
}

CandidateEvaluator::~CandidateEvaluator() = default;

CandidateScore CandidateEvaluator::Evaluate(const Selection& candidate) {
  return Evaluate(std::span(&candidate, 1)).front();
}

std::shared_ptr<const CandidateNetwork::Bound> CandidateEvaluator::BoundOf(Candidate& candidate) {
  if (candidate.bound) return candidate.bound;
  return std::make_shared<const CandidateNetwork::Bound>(network_.Bind(*candidate.selection));
}

std::vector<CandidateScore> CandidateEvaluator::Evaluate(std::span<const Selection> candidates,
                                                         int64_t samples, int64_t keep) {
  if (samples == 0) samples = set_.samples();
  ESPALIER_CHECK(samples > 0 && samples <= set_.samples(), samples, " samples of ", set_.samples());
  RaceOptions race = options_.race;
  if (keep > 0) race.keep = keep;
  std::vector<std::unique_ptr<Candidate>> distinct;
  std::unordered_map<std::string, Candidate*> by_key;
  std::vector<Candidate*> asked;
  for (const Selection& selection : candidates) {
    std::string key = KeyOf(selection);
    Candidate*& known = by_key[key];
    if (known == nullptr) {
      distinct.push_back(std::make_unique<Candidate>());
      known = distinct.back().get();
      known->selection = &selection;
      known->values.resize(static_cast<size_t>(set_.samples()));
      if (const auto found = known_.find(key); found != known_.end()) {
        std::copy(found->second.begin(), found->second.end(), known->values.begin());
        known->seen = static_cast<int64_t>(found->second.size());
      }
      const auto failure = failures_.find(key);
      if (failure != failures_.end() && samples >= failure->second.samples) {
        known->failed = true;
        known->cause = failure->second.cause;
      }
      known->key = std::move(key);
      const bool remembered = known->failed || known->seen >= samples;
      (remembered ? totals_->counters.remembered : totals_->counters.evaluated) += 1;
    } else {
      ++totals_->counters.remembered;
    }
    asked.push_back(known);
  }

  std::vector<Candidate*> active;
  for (const auto& candidate : distinct)
    if (!candidate->failed) active.push_back(candidate.get());
  const std::vector<int64_t> rounds = RaceRounds(samples, race);
  int64_t from = 0;
  for (const int64_t to : rounds) {
    RunBatches(active, from, to);
    std::erase_if(active, [](const Candidate* c) { return c->failed.load(); });
    for (Candidate* candidate : active) {
      candidate->seen = std::max(candidate->seen, to);
      candidate->raced = to;
    }
    from = to;
    if (to == samples) break;
    std::vector<std::span<const float>> values;
    for (const Candidate* candidate : active)
      values.emplace_back(candidate->values.data(), static_cast<size_t>(to));
    std::vector<Candidate*> left;
    const auto decisions = static_cast<int64_t>(rounds.size()) - 1;
    const std::vector<size_t> losers = Losers(values, decisions, race);
    for (size_t c = 0; c < active.size(); ++c)
      if (!std::binary_search(losers.begin(), losers.end(), c)) left.push_back(active[c]);
    active = std::move(left);
  }

  for (const auto& candidate : distinct) {
    if (candidate->failed) {
      Failure& failure = failures_.try_emplace(candidate->key, Failure{{}, samples}).first->second;
      failure = {candidate->cause, std::min(failure.samples, samples)};
      continue;
    }
    candidate->values.resize(static_cast<size_t>(candidate->seen));
    known_[candidate->key] = candidate->values;
  }
  totals_->counters.failed = static_cast<int64_t>(failures_.size());
  /// What those that saw all samples gained, on average, after the first `raced` ones: how much
  /// easier the others are.
  const auto later_gain = [&](int64_t raced) {
    double gain = 0, finished = 0;
    if (raced == samples) return gain;
    for (const auto& candidate : distinct) {
      if (candidate->failed || candidate->raced < samples) continue;
      gain += MeanOfFirst(candidate->values, samples) - MeanOfFirst(candidate->values, raced);
      ++finished;
    }
    return finished > 0 ? gain / finished : 0;
  };
  std::vector<CandidateScore> scores;
  for (const Candidate* candidate : asked) {
    CandidateScore score{.failed = candidate->failed, .cause = candidate->cause};
    if (!score.failed) {
      const auto n = static_cast<double>(candidate->raced);
      const auto raced = static_cast<size_t>(candidate->raced);
      double squares = 0;
      for (const float value : std::span(candidate->values).first(raced))
        squares += static_cast<double>(value) * value;
      const double mean = MeanOfFirst(candidate->values, candidate->raced);
      score.value = mean + later_gain(candidate->raced);
      score.standard_error = std::sqrt(std::max(0.0, squares / n - mean * mean) / n);
      score.samples = candidate->raced;
      score.dropped = candidate->raced < samples;
    }
    scores.push_back(std::move(score));
  }
  return scores;
}

/// As the options say; else measured on a few samples of the uncut network, once there is so much
/// to do that it pays. A setting whose outputs differ in any bit from those of one thread is not
/// taken: what candidates get must not depend on what was fastest.
WorkerSetting CandidateEvaluator::SettingFor(int64_t samples) {
  constexpr int64_t kTrialSamples = 64, kWorthIt = 50;
  const int64_t cores = at::get_num_threads();
  if (masked_) return {1, cores};
  if (options_.workers > 0) return {options_.workers, std::max<int64_t>(options_.threads, 1)};
  if (options_.threads > 0)
    return {std::max<int64_t>(cores / options_.threads, 1), options_.threads};
  if (setting_) return *setting_;
  const int64_t count = std::min({options_.batch_size, kTrialSamples, set_.samples()});
  if (cores == 1 || samples < kWorthIt * count) return {cores, 1};
  const auto bound = network_.Bind(KeepAll(space_));
  setting_ = MeasuredSetting(
      WorkerSettings(cores),
      [&] {
        const at::NoGradGuard no_grad;
        std::vector<Tensor> outputs;
        OnOwnQueue(options_.device, [&] {
          outputs = network_.executor().Run(bound.binding,
                                            PrepareInputs(set_.Inputs(0, count), options_.dtype));
        });
        return outputs;
      },
      SteadyClock());
  return *setting_;
}

void CandidateEvaluator::RunBatches(std::vector<Candidate*>& active, int64_t first, int64_t last) {
  std::vector<Candidate*> order;
  for (Candidate* candidate : active)
    if (candidate->seen < last) order.push_back(candidate);
  const WorkerSetting setting = SettingFor(static_cast<int64_t>(order.size()) * (last - first));
  totals_->counters.setting = setting;
  const auto on_workers = [&](size_t tasks, const std::function<void(size_t)>& body) {
    RunOnWorkers(setting, tasks, [&](size_t i) { OnOwnQueue(options_.device, [&] { body(i); }); });
  };
  if (!masked_) on_workers(order.size(), [&](size_t i) { Ready(*order[i]); });
  if (sharing()) {
    std::vector<Candidate*> arranged;
    for (const size_t i : PrefixOrder(SignaturesOf(order))) arranged.push_back(order[i]);
    order = std::move(arranged);
  }

  struct Task {
    int64_t first, count;
    size_t begin, end;  // candidates
  };
  const int64_t batches = (last - first + options_.batch_size - 1) / options_.batch_size;
  const auto shards = static_cast<size_t>(
      std::clamp<int64_t>((2 * setting.workers + batches - 1) / std::max<int64_t>(batches, 1), 1,
                          std::max<int64_t>(static_cast<int64_t>(order.size()) / 4, 1)));
  std::vector<Task> tasks;
  for (int64_t at = first; at < last; at += options_.batch_size)
    for (size_t s = 0; s < shards; ++s)
      tasks.push_back({at, std::min(options_.batch_size, last - at), order.size() * s / shards,
                       order.size() * (s + 1) / shards});
  on_workers(tasks.size(), [&](size_t i) {
    const Task& task = tasks[i];
    std::vector<Candidate*> part(order.begin() + static_cast<int64_t>(task.begin),
                                 order.begin() + static_cast<int64_t>(task.end));
    // Some may know this part of the samples already.
    std::erase_if(part, [&](const Candidate* c) { return c->seen >= task.first + task.count; });
    RunBatch(part, task.first, task.count);
  });
  for (Candidate* candidate : order) {
    if (candidate->bound) totals_->bound_bytes -= candidate->bound->bytes;
    candidate->bound.reset();
    candidate->signature.clear();
  }
}

/// Null where nothing is to be shared.
std::vector<const Signature*> CandidateEvaluator::SignaturesOf(
    const std::vector<Candidate*>& candidates) const {
  std::vector<const Signature*> signatures;
  for (const Candidate* candidate : candidates)
    signatures.push_back(sharing() ? &candidate->signature : nullptr);
  return signatures;
}

void CandidateEvaluator::Fail(Candidate& candidate, const std::string& cause) {
  const std::lock_guard lock(totals_->mutex);
  if (!candidate.failed.exchange(true)) candidate.cause = cause;
}

/// Cuts a candidate, as far as it is to be kept from batch to batch.
void CandidateEvaluator::Ready(Candidate& candidate) {
  if (candidate.own) return;
  try {
    if (options_.prepare) {
      Network cut = Cut(space_.network(), MakePlan(space_, *candidate.selection));
      cut.store = cut.store.To(options_.device);
      options_.prepare(cut, *candidate.selection);
      candidate.own.emplace(cut, options_.dtype);
      return;
    }
    const auto bound = BoundOf(candidate);
    candidate.signature = bound->signature;
    if (totals_->bound_bytes.fetch_add(bound->bytes) < kBoundBytes)
      candidate.bound = bound;
    else
      totals_->bound_bytes -= bound->bytes;
  } catch (const std::exception& error) {
    if (IsFaultOfAll(error)) throw;
    Fail(candidate, CauseOf(error));
  }
}

void CandidateEvaluator::RunBatch(const std::vector<Candidate*>& order, int64_t first,
                                  int64_t count) {
  const at::NoGradGuard no_grad;
  size_t done = 0;  // candidates of `order` that have their values
  try {
    const std::vector<Tensor> inputs = PrepareInputs(set_.Inputs(first, count), options_.dtype);
    SharedPrefixes shared(network_.executor(), inputs, SignaturesOf(order));
    for (size_t i = 0; i < order.size(); ++i, done = i) {
      Candidate& candidate = *order[i];
      if (candidate.failed) continue;
      try {
        std::vector<Tensor> outputs;
        std::shared_ptr<const CandidateNetwork::Bound> bound;  // stays until the device is done
        if (candidate.own) {
          outputs = candidate.own->Run(inputs);
        } else if (masked_) {
          outputs = masked_->Run(*candidate.selection, inputs);
        } else {
          bound = BoundOf(candidate);
          outputs = shared.Run(i, bound->binding);
        }
        const Tensor values = set_.PerSample(outputs, first, count).cpu().contiguous();
        if (!values.isfinite().all().item<bool>()) {
          Fail(candidate,
               Str("outputs are not finite on samples ", first, " to ", first + count - 1));
          continue;
        }
        std::copy_n(values.const_data_ptr<float>(), count, candidate.values.begin() + first);
      } catch (const std::exception& error) {
        if (IsFaultOfAll(error) || (IsOutOfMemory(error) && count > 1)) throw;
        Fail(candidate,
             IsOutOfMemory(error) ? "out of memory with a single sample" : CauseOf(error));
      }
    }
    totals_->ops_due += shared.ops_due();
    totals_->ops_run += shared.ops_run();
    const std::lock_guard lock(totals_->mutex);
    totals_->counters.samples += count * static_cast<int64_t>(order.size());
    return;
  } catch (const std::exception& error) {  // half the batch, for those that have none yet
    if (!IsOutOfMemory(error)) throw;
    if (count == 1) throw Error(ErrorKind::kResource, "out of memory with a single sample");
  }
  ReleaseCachedMemory(options_.device);
  if (masked_) masked_->Forget();
  const std::vector<Candidate*> rest(order.begin() + static_cast<int64_t>(done), order.end());
  RunBatch(rest, first, count / 2);
  RunBatch(rest, first + count / 2, count - count / 2);
}

CandidateEvaluator::Counters CandidateEvaluator::counters() const {
  Counters counters = totals_->counters;
  if (const auto due = static_cast<double>(totals_->ops_due); due > 0)
    counters.shared = 1 - static_cast<double>(totals_->ops_run) / due;
  return counters;
}

}  // namespace espalier
