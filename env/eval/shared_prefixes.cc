#include "env/eval/shared_prefixes.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <span>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr size_t kDeepest = 6;       // points where candidates part that are held at a time
constexpr int32_t kLeastShared = 4;  // ops; below, sharing costs more than it saves

int32_t CommonPrefix(const Signature& a, const Signature& b) {
  return static_cast<int32_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
}

/// `part` agrees on all ops before `op`.
void Arrange(const std::vector<const Signature*>& signatures, std::span<size_t> part, size_t op) {
  if (part.size() < 2) return;
  const auto at = [&](size_t candidate) { return (*signatures[candidate])[op]; };
  const size_t ops = signatures[part.front()]->size();
  const auto differs = [&](size_t candidate) { return at(candidate) != at(part.front()); };
  while (op < ops && std::none_of(part.begin(), part.end(), differs)) ++op;
  if (op == ops) return;
  std::map<uint64_t, std::vector<size_t>> by_signature;
  for (const size_t candidate : part) by_signature[at(candidate)].push_back(candidate);
  std::vector<std::vector<size_t>> parts;
  for (auto& [value, members] : by_signature) parts.push_back(std::move(members));
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a.size() < b.size(); });
  size_t place = 0;
  for (const auto& members : parts) {
    const auto own = part.subspan(place, members.size());
    std::copy(members.begin(), members.end(), own.begin());
    Arrange(signatures, own, op + 1);
    place += members.size();
  }
}

}  // namespace

std::vector<size_t> PrefixOrder(const std::vector<const Signature*>& signatures) {
  std::vector<size_t> order(signatures.size());
  std::iota(order.begin(), order.end(), size_t{0});
  Arrange(signatures, order, 0);
  return order;
}

SharedPrefixes::SharedPrefixes(const Executor& executor, std::vector<Tensor> inputs,
                               const std::vector<const Signature*>& order)
    : executor_(executor),
      inputs_(std::move(inputs)),
      ops_(static_cast<int32_t>(executor.graph().ops.size())),
      common_(order.size(), 0) {
  for (size_t i = 0; i + 1 < order.size(); ++i)
    if (order[i] && order[i + 1]) common_[i] = CommonPrefix(*order[i], *order[i + 1]);
}

/// Where later candidates part from this one: ever earlier, the further down the order.
/// comes_back: one of them parts where this one begins.
std::vector<int32_t> SharedPrefixes::PartingPoints(size_t index, int32_t begin,
                                                   bool* comes_back) const {
  std::vector<int32_t> points;
  *comes_back = false;
  int32_t shared = ops_;
  for (size_t later = index + 1; later < common_.size(); ++later) {
    shared = std::min(shared, common_[later - 1]);
    *comes_back = shared == begin;
    if (shared <= std::max(begin, kLeastShared)) break;
    if (points.empty() || points.back() != shared) points.push_back(shared);
  }
  return points;
}

std::vector<Tensor> SharedPrefixes::Run(size_t index, const Binding& binding) {
  ESPALIER_CHECK(index >= next_ && index < common_.size(), "candidate ", index, " of ",
                 common_.size(), " after ", next_);
  for (; next_ < index; ++next_)  // candidates that were run, or left out
    while (!held_.empty() && held_.back().next > common_[next_]) held_.pop_back();
  const int32_t begin = held_.empty() ? 0 : held_.back().next;
  bool comes_back = false;
  std::vector<int32_t> points = PartingPoints(index, begin, &comes_back);
  Executor::Progress at;
  if (held_.empty()) {
    at = executor_.Start(binding, inputs_);
  } else {
    at = executor_.Fork(held_.back(), binding);
    if (!comes_back) held_.pop_back();
  }
  const size_t room = kDeepest - std::min(kDeepest, held_.size());
  if (points.size() > room) points.resize(room);  // the deepest are the most worth
  for (auto stop = points.rbegin(); stop != points.rend(); ++stop) {
    executor_.Advance(binding, at, *stop);
    held_.push_back(at);
    at = executor_.Fork(at, binding);
  }
  executor_.Advance(binding, at, ops_);
  ops_due_ += ops_;
  ops_run_ += ops_ - begin;
  return executor_.Outputs(at);
}

}  // namespace espalier
