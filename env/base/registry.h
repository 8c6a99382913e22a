#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/base/error.h"

namespace espalier {

/// What a registry entry says about itself; `espalier list` and the tests read it from here.
struct EntryInfo {
  std::string name;                  ///< snake_case, lasting, equal to the file name
  std::string summary;               ///< one line
  std::string source;                ///< paper and equation, or "ours"
  std::vector<std::string> facts{};  ///< "needs gradients", "needs data", "deterministic", ...
};

/// Name -> factory of T. Entries register themselves at the end of their .cc.
///
/// Errors   a duplicate name throws kInternal at start-up; an unknown one kConfig with a
/// suggestion.
template <typename T>
class Registry {
 public:
  struct Entry {
    EntryInfo info;
    /// Calls back with the schema of a default config: for documentation.
    std::function<void(const std::function<void(const Schema&)>&)> describe;
    /// Makes an instance from a config section; problems as ConfigSection::ReadInto.
    std::function<std::unique_ptr<T>(const ConfigSection&, std::vector<std::string>& problems)>
        create;
    /// The resolved section as TOML.
    std::function<std::string(const ConfigSection&)> dump;
  };

  static Registry& Global() {
    static Registry registry;
    return registry;
  }
  void Register(Entry entry) {
    ESPALIER_CHECK(!entries_.contains(entry.info.name), "registered twice: ", entry.info.name);
    entries_.emplace(entry.info.name, std::move(entry));
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries_) names.push_back(name);
    return names;
  }
  const Entry* Find(const std::string& name) const {
    const auto found = entries_.find(name);
    return found == entries_.end() ? nullptr : &found->second;
  }
  const Entry& Get(const std::string& kind, const std::string& name) const {
    const Entry* entry = Find(name);
    if (!entry)
      throw Error(ErrorKind::kConfig, Str("unknown ", kind, " '", name, "'"),
                  SuggestName(name, Names()));
    return *entry;
  }
  /// With defaults, or from a section. Errors: kConfig listing every problem of the section.
  std::unique_ptr<T> Create(const std::string& kind, const std::string& name,
                            const ConfigSection& section = {}) const {
    std::vector<std::string> problems;
    auto made = Get(kind, name).create(section, problems);
    ThrowIfProblems(problems);
    return made;
  }

 private:
  std::map<std::string, Entry> entries_;
};

/// Registers Impl(const Config&) under info.name; Config needs `Schema Describe(Config&)`.
/// Keys in `also_known` (such as "name") belong to the caller.
template <typename T, typename Impl, typename Config>
struct Registration {
  explicit Registration(EntryInfo info) {
    const std::vector<std::string> also_known = {"name"};
    typename Registry<T>::Entry entry;
    entry.info = std::move(info);
    entry.describe = [](const std::function<void(const Schema&)>& visit) {
      Config config;
      visit(Describe(config));
    };
    entry.create = [also_known](const ConfigSection& section, std::vector<std::string>& problems) {
      Config config;
      section.ReadInto(Describe(config), also_known, problems);
      return std::unique_ptr<T>(std::make_unique<Impl>(config));
    };
    entry.dump = [also_known](const ConfigSection& section) {
      Config config;
      std::vector<std::string> problems;
      section.ReadInto(Describe(config), also_known, problems);
      return DumpToml(section.name(), Describe(config), section);
    };
    Registry<T>::Global().Register(std::move(entry));
  }
};

/// A component without options.
struct NoConfig {};
inline Schema Describe(NoConfig&) { return {}; }

}  // namespace espalier
