#include "experiments/run_folder.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <torch/version.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/machine.h"
#include "env/graph/checked_json.h"
#include "experiments/settings.h"
#include "experiments/version.h"

namespace espalier {
namespace {

// Where a run lies does not change what it computes.
const std::set<std::string> kIgnoredKeys = {"run.out", "run.name"};

/// Whether two TOML strings name one file: a path means the same from wherever it is written.
bool SameFile(const std::string& a, const std::string& b) {
  std::error_code no_such_file;
  const auto path = [](const std::string& toml) {
    return toml.size() < 2 ? "" : toml.substr(1, toml.size() - 2);
  };
  return a.starts_with('"') && b.starts_with('"') &&
         std::filesystem::equivalent(path(a), path(b), no_such_file);
}

void CheckSameConfig(const std::filesystem::path& folder, const std::string& saved_toml,
                     const std::string& resolved_toml, const std::set<std::string>& open) {
  const auto saved = SettingsOf(saved_toml);
  const auto asked = SettingsOf(resolved_toml), own = SettingsOf(resolved_toml, true);
  std::set<std::string> keys;
  for (const auto& [key, value] : saved) keys.insert(key);
  for (const auto& [key, value] : asked) keys.insert(key);
  std::string differing;
  for (const auto& key : keys) {
    if (kIgnoredKeys.contains(key) || open.contains(key)) continue;
    const auto before = saved.find(key);
    // A key that came after the folder was made, at its default: what was meant without it.
    if (before == saved.end() && !own.contains(key)) continue;
    const auto now = asked.find(key);
    const std::string was = before == saved.end() ? "absent" : before->second;
    const std::string is = now == asked.end() ? "absent" : now->second;
    if (was != is && !SameFile(was, is))
      differing += Str("\n  ", key, ": the folder has ", was, ", this line says ", is);
  }
  if (!differing.empty())
    throw Error(ErrorKind::kConfig,
                Str("'", folder.string(), "' was made with another config:", differing),
                "give another folder with --out DIR, or remove this one");
}

#ifdef __clang__
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

}  // namespace

RunFolder::RunFolder(std::filesystem::path path, const std::string& resolved_toml,
                     const std::string& command_line, const std::set<std::string>& open)
    : path_(std::move(path)), command_line_(command_line) {
  namespace fs = std::filesystem;
  if (fs::exists(path_) && !fs::is_directory(path_))
    throw Error(ErrorKind::kUsage, Str("'", path_.string(), "' is a file, not a folder"));
  const fs::path saved = path_ / "resolved.toml";
  if (fs::exists(path_) && !fs::exists(saved)) {
    for (const auto& entry : fs::directory_iterator(path_)) {
      const std::string name = entry.path().filename().string();
      if (name == ".lock" || name.starts_with("resolved.toml"))
        continue;  // killed at the very start
      throw Error(ErrorKind::kUsage,
                  Str("'", path_.string(), "' holds other files and is not a run"),
                  "give an empty or new folder with --out DIR");
    }
  }
  std::error_code failed;
  fs::create_directories(path_, failed);
  if (failed)
    throw Error(ErrorKind::kIo,
                Str("cannot make folder '", path_.string(), "': ", failed.message()));
  lock_ = ::open((path_ / ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  if (lock_ < 0)
    throw Error(ErrorKind::kIo,
                Str("cannot write into '", path_.string(), "': ", std::strerror(errno)));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0)
    throw Error(ErrorKind::kConfig, Str("another process is working in '", path_.string(), "'"),
                "wait for it, or give another folder with --out DIR");
  if (fs::exists(saved)) {
    CheckSameConfig(path_, ReadFile(saved), resolved_toml, open);
    resumed_ = true;
  }
  if (!resumed_ || !open.empty()) WriteFileAtomic(saved, resolved_toml);
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

std::optional<nlohmann::ordered_json> RunFolder::Finished(const std::string& stage) const {
  const auto marker = path_ / "stages" / (stage + ".json");
  if (!std::filesystem::exists(marker)) return std::nullopt;
  return ReadJson(marker);
}

void RunFolder::Finish(const std::string& stage, const nlohmann::ordered_json& result) {
  WriteJson(path_ / "stages" / (stage + ".json"), result);
}

void RunFolder::Manifest(const nlohmann::ordered_json& facts,
                         const nlohmann::ordered_json& inputs) {
  const auto file = path_ / "manifest.json";
  nlohmann::ordered_json manifest;
  if (std::filesystem::exists(file)) {
    manifest = ReadJson(file);
    for (const auto& [name, value] : inputs.items()) {
      const auto saved = manifest.contains("inputs") && manifest["inputs"].contains(name)
                             ? manifest["inputs"][name]
                             : nlohmann::ordered_json();
      if (saved != value)
        throw Error(ErrorKind::kConfig,
                    Str("'", path_.string(), "' was made from another input: ", name, " was ",
                        saved.dump(), " and is now ", value.dump()),
                    "give another folder with --out DIR, or bring the old input back");
    }
    manifest["resumed"].push_back({{"when", UtcNow()}, {"command", command_line_}});
  } else {
    manifest = {{"format", "espalier-run"},
                {"version", 1},
                {"created", UtcNow()},
                {"command", command_line_}};
    manifest.update(facts);
    manifest["inputs"] = inputs;
  }
  WriteJson(file, manifest);
}

nlohmann::ordered_json MachineFacts(const std::string& device) {
  utsname system{};
  ::uname(&system);
  return {{"espalier", kVersion},
          {"libtorch", TORCH_VERSION},
          {"compiler", kCompiler},
          {"system", Str(system.sysname, ' ', system.release, ' ', system.machine)},
          {"processor", ProcessorName()},
          {"cores", std::thread::hardware_concurrency()},
          {"threads", at::get_num_threads()},
          {"device", device}};
}

nlohmann::ordered_json ReadJson(const std::filesystem::path& path) {
  constexpr uint64_t kMostBytes = 64 << 20;
  const std::string text = ReadFile(path, kMostBytes);
  try {
    ParseCheckedJson(text);  // depth and duplicates; the other keeps the order
    return nlohmann::ordered_json::parse(text);
  } catch (const Error& error) {
    throw Error(ErrorKind::kIo, Str("'", path.string(), "' is not valid JSON: ", error.message()),
                "the file is damaged; start again in a new folder");
  }
}

void WriteJson(const std::filesystem::path& path, const nlohmann::ordered_json& json) {
  WriteFileAtomic(path, json.dump(2) + "\n");
}

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace espalier
