#include "env/latency/latency_cache.h"

#include <cmath>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/graph/checked_json.h"

namespace espalier {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "espalier-latency";
constexpr int kVersion = 1;
constexpr uint64_t kMostBytes = 64 << 20;

/// Errors: kIo, kModel and json's own for whatever is wrong.
std::map<std::string, double> ParseCache(const std::string& text, const json& device) {
  const json root = ParseCheckedJson(text);
  const auto refuse = [](const std::string& what) { throw Error(ErrorKind::kIo, what); };
  if (!root.is_object() || root.value("format", json()) != kFormat) refuse("is no latency file");
  if (root.value("version", json()) != kVersion) refuse("is of another version");
  if (root.value("device", json()) != device) refuse("is of another device");
  const json measured = root.value("ms", json());
  if (!measured.is_object()) refuse("has no table 'ms'");
  std::map<std::string, double> ms;
  for (const auto& [key, value] : measured.items()) {
    if (!value.is_number()) refuse(Str("'", key, "' is no number"));
    const double time = value.get<double>();
    if (!(std::isfinite(time) && time > 0)) refuse(Str("'", key, "' is no time"));
    ms[key] = time;
  }
  return ms;
}

}  // namespace

LatencyCache::LatencyCache(const std::filesystem::path& folder, json device)
    : device_(std::move(device)),
      file_(folder / Str("latency-", Sha256Hex(device_.dump()).substr(0, 16), ".json")) {
  Read(file_);
}

std::optional<double> LatencyCache::Find(const std::string& key) const {
  const auto found = ms_.find(key);
  if (found == ms_.end()) return std::nullopt;
  used_.insert(key);
  return found->second;
}

void LatencyCache::Put(const std::string& key, double ms) {
  ESPALIER_CHECK(std::isfinite(ms) && ms > 0, "'", key, "' took ", ms, " ms");
  ms_[key] = ms;
  used_.insert(key);
  changed_ = true;
}

bool LatencyCache::Read(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return false;
  std::string problem;
  try {
    // What this process has measured stays.
    std::map<std::string, double> others = ParseCache(ReadFile(file, kMostBytes), device_);
    ms_.merge(others);
    return true;
  } catch (const Error& error) {
    problem = error.message();
  } catch (const json::exception& error) {
    problem = error.what();
  }
  LogWarning("'", file.string(), "' is not used: ", problem, "; what it lacks is measured");
  return false;
}

void LatencyCache::Write(const std::filesystem::path& file) const {
  std::map<std::string, double> ms;
  for (const std::string& key : used_) ms[key] = ms_.at(key);
  WriteAll(file, ms);
}

void LatencyCache::WriteAll(const std::filesystem::path& file,
                            const std::map<std::string, double>& ms) const {
  const json root = {{"format", kFormat}, {"version", kVersion}, {"device", device_}, {"ms", ms}};
  WriteFileAtomic(file, root.dump(1) + "\n");
}

void LatencyCache::Save() {
  if (file_.empty() || !changed_) return;
  Read(file_);
  WriteAll(file_, ms_);
  changed_ = false;
}

}  // namespace espalier
