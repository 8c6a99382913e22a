#include "env/base/error.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>

namespace espalier {
namespace {

/// Damerau's edit distance (restricted): inserts, deletes, replacements and swaps of neighbours
/// cost one each. Case is ignored: `SGD` is near `sgd`.
size_t EditDistance(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  std::vector<size_t> before_last, last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = lower(a[i - 1]) == lower(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
                           lower(a[i - 2]) == lower(b[j - 1]);
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last = std::exchange(last, row);
  }
  return last[b.size()];
}

}  // namespace

Error::Error(ErrorKind kind, std::string message, std::string hint)
    : kind_(kind), message_(std::move(message)), hint_(std::move(hint)) {}

const char* ErrorKindName(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kConfig:
      return "config";
    case ErrorKind::kModel:
      return "model";
    case ErrorKind::kData:
      return "data";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kBudget:
      return "budget";
    case ErrorKind::kTrials:
      return "trials";
    case ErrorKind::kResource:
      return "resource";
    case ErrorKind::kDevice:
      return "device";
    case ErrorKind::kInterrupted:
      return "interrupted";
    case ErrorKind::kInternal:
      return "internal";
  }
  return "internal";
}

int ExitCode(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
    case ErrorKind::kConfig:
      return 2;
    case ErrorKind::kModel:
    case ErrorKind::kData:
    case ErrorKind::kIo:
    case ErrorKind::kDevice:
      return 3;
    case ErrorKind::kBudget:
      return 4;
    case ErrorKind::kTrials:
      return 5;
    case ErrorKind::kResource:
      return 6;
    case ErrorKind::kInterrupted:
      return 75;
    case ErrorKind::kInternal:
      return 1;
  }
  return 1;
}

std::string NearestName(std::string_view name, const std::vector<std::string>& known) {
  // A third of the letters may be wrong: enough for typing slips, too little for another word.
  constexpr size_t kLongest = 200;  // letters; beyond it nobody mistypes a name, files lie
  size_t nearest_distance = std::max<size_t>(1, name.size() / 3) + 1;
  std::string nearest;
  if (name.size() > kLongest) return nearest;
  for (const std::string& candidate : known) {
    // Each letter more or less is one step, so most candidates need no table.
    const size_t longer = std::max(candidate.size(), name.size());
    if (longer - std::min(candidate.size(), name.size()) >= nearest_distance) continue;
    const size_t distance = EditDistance(name, candidate);
    if (distance < nearest_distance) {
      nearest_distance = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string SuggestName(std::string_view name, const std::vector<std::string>& known) {
  const std::string nearest = NearestName(name, known);
  if (!nearest.empty()) return Str("did you mean '", nearest, "'?");
  if (known.empty()) return "there are none";
  constexpr size_t kMost = 12;
  std::string list = "known: ";
  for (size_t i = 0; i < std::min(known.size(), kMost); ++i) list += (i ? ", " : "") + known[i];
  if (known.size() > kMost) list += Str(" and ", known.size() - kMost, " more");
  return list;
}

namespace internal {

void ThrowCheckFailed(const char* file, int line, const char* condition,
                      const std::string& detail) {
  throw Error(
      ErrorKind::kInternal,
      Str(file, ":", line, ": check failed: ", condition, detail.empty() ? "" : ": ", detail),
      "this is a bug of Espalier: please report it with the command that led here");
}

}  // namespace internal
}  // namespace espalier
