#include "env/base/config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "env/base/config_loader.h"
#include "env/base/error.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using internal::ConfigLoader;
using internal::ConfigSource;
using internal::ConfigSources;
using internal::DottedKey;
using internal::FoundType;
using internal::ThrowConfigAt;

std::string TextOf(const toml::node& node) {
  std::ostringstream out;
  node.visit([&](const auto& value) { out << value; });
  return std::move(out).str();
}

std::string Problem(const std::string& what, const std::string& origin, const std::string& help) {
  return Str(what, "\n  --> ", origin, help.empty() ? "" : "\n  help: ", help);
}

std::string CheckReal(const Field& field, double value) {
  const RealRange& range = field.real_range;
  const bool inside = std::isfinite(value) &&
                      (range.open_low ? value > range.low : value >= range.low) &&
                      (range.open_high ? value < range.high : value <= range.high);
  if (inside) return "";
  const std::string allowed = RangeText(field);
  return Str(value, " is not allowed: must be ", allowed.empty() ? "a finite number" : allowed);
}

/// Each stores the node into the target and returns "", or says what is wrong with it.
class Reader {
 public:
  Reader(const Field& field, const toml::node& node, const ConfigSource& source)
      : field_(field), node_(node), source_(source) {}

  std::string operator()(bool* target) const {
    if (!node_.is_boolean()) return WrongType(node_);
    *target = node_.as_boolean()->get();
    return "";
  }
  std::string operator()(int64_t* target) const {
    if (!node_.is_integer()) return WrongType(node_);
    const int64_t value = node_.as_integer()->get();
    if (value < field_.int_range.low || value > field_.int_range.high)
      return Str(value, " is not allowed: must be ", RangeText(field_));
    *target = value;
    return "";
  }
  std::string operator()(double* target) const {
    const auto value = Number(node_);
    if (!value) return WrongType(node_);
    std::string problem = CheckReal(field_, *value);
    if (problem.empty()) *target = *value;
    return problem;
  }
  std::string operator()(std::string* target) const {
    if (!node_.is_string() && !source_.raw) return WrongType(node_);
    const std::string value = node_.is_string() ? node_.as_string()->get() : *source_.raw;
    const auto& choices = field_.choices;
    if (!choices.empty() && std::find(choices.begin(), choices.end(), value) == choices.end()) {
      const std::string nearest = NearestName(value, choices);
      return Str("'", value, "' is not allowed: must be ", RangeText(field_),
                 nearest.empty() ? "" : Str(" (did you mean '", nearest, "'?)"));
    }
    *target = value;
    return "";
  }
  std::string operator()(std::optional<Quantity>* target) const {
    const auto number = Number(node_);
    if (!number && !node_.is_string()) return WrongType(node_);
    if (number) {
      if (!std::isfinite(*number) || *number <= 0)
        return Str(*number, " is not allowed: must be > 0");
      *target = Quantity{.value = *number, .is_fraction = *number <= 1};
      return "";
    }
    try {
      const std::string& text = node_.as_string()->get();
      if (text.ends_with("ms") && !field_.name.ends_with("_ms"))
        return Str("'", text, "' is a time, and this is none");
      *target = ParseQuantity(text);
      return "";
    } catch (const Error& error) {
      return Str(error.message(), ": ", error.hint());
    }
  }
  std::string operator()(std::vector<int64_t>* target) const {
    return List(target, [](const toml::node& item) {
      return item.is_integer() ? std::optional(item.as_integer()->get()) : std::nullopt;
    });
  }
  std::string operator()(std::vector<double>* target) const { return List(target, Number); }
  std::string operator()(std::vector<std::string>* target) const {
    return List(target, [](const toml::node& item) {
      return item.is_string() ? std::optional(item.as_string()->get()) : std::nullopt;
    });
  }

 private:
  static std::optional<double> Number(const toml::node& node) {
    if (node.is_integer()) return static_cast<double>(node.as_integer()->get());
    if (node.is_floating_point()) return node.as_floating_point()->get();
    return std::nullopt;
  }
  std::string WrongType(const toml::node& found) const {
    return Str("wrong type: expected ", TypeName(field_), ", found ", FoundType(found), " ",
               found.is_table() ? "" : TextOf(found));
  }
  template <typename T, typename Get>
  std::string List(std::vector<T>* target, Get get) const {
    if (!node_.is_array()) return WrongType(node_);
    std::vector<T> values;
    for (const toml::node& item : *node_.as_array()) {
      const std::optional<T> value = get(item);
      if (!value) return WrongType(item);
      values.push_back(*value);
    }
    *target = std::move(values);
    return "";
  }

  const Field& field_;
  const toml::node& node_;
  const ConfigSource& source_;
};

}  // namespace

struct ConfigSection::Data {
  toml::table table;  // of the whole document; a section looks itself up by its dotted name
  ConfigSources sources;

  const toml::node* Find(const std::string& dotted) const {
    const toml::node* node = &table;
    for (size_t start = 0; node && start < dotted.size();) {
      const size_t end = std::min(dotted.find('.', start), dotted.size());
      const toml::table* const parent = node->as_table();
      node = parent ? parent->get(dotted.substr(start, end - start)) : nullptr;
      start = end + 1;
    }
    return node;
  }
  const ConfigSource& SourceOf(const std::string& dotted) const {
    static const ConfigSource missing{.origin = "default", .folder = {}, .raw = {}};
    const auto found = sources.find(dotted);
    return found == sources.end() ? missing : found->second;
  }
  std::string NotATable(const std::string& dotted) const {
    return Problem(Str("'", dotted, "' must be a table, found ", FoundType(*Find(dotted))),
                   SourceOf(dotted).origin, Str("write [", dotted, "] and its keys below"));
  }
};

bool ConfigSection::Has(const std::string& key) const {
  return data_ && data_->Find(DottedKey(name_, key));
}

std::vector<std::string> ConfigSection::keys() const {
  std::vector<std::string> keys;
  const toml::node* const node = data_ ? data_->Find(name_) : nullptr;
  if (!node || !node->is_table()) return keys;
  for (const auto& [key, value] : *node->as_table()) keys.emplace_back(key.str());
  return keys;
}

std::string ConfigSection::Origin(const std::string& key) const {
  return Has(key) ? data_->SourceOf(DottedKey(name_, key)).origin : "default";
}

std::optional<std::string> ConfigSection::GetString(const std::string& key) const {
  if (!Has(key)) return std::nullopt;
  std::string value;
  const Field field{.name = key, .target = &value, .doc = ""};
  const std::string dotted = DottedKey(name_, key);
  const ConfigSource& source = data_->SourceOf(dotted);
  const std::string problem = Reader(field, *data_->Find(dotted), source)(&value);
  if (!problem.empty()) ThrowConfigAt(Str("config key '", dotted, "': ", problem), source.origin);
  return value;
}

void ConfigSection::ReadInto(const Schema& schema, const std::vector<std::string>& also_known,
                             std::vector<std::string>& problems) const {
  const toml::node* const node = data_ ? data_->Find(name_) : nullptr;
  if (!node) return;
  const auto report = [&](std::string problem) {
    if (std::find(problems.begin(), problems.end(), problem) == problems.end())
      problems.push_back(std::move(problem));
  };
  if (!node->is_table()) return report(data_->NotATable(name_));

  std::vector<std::string> known;
  for (const Field& field : schema.fields()) known.push_back(field.name);
  known.insert(known.end(), also_known.begin(), also_known.end());
  for (const std::string& key : keys()) {
    const std::string dotted = DottedKey(name_, key);
    const ConfigSource& source = data_->SourceOf(dotted);
    const auto field = std::find_if(schema.fields().begin(), schema.fields().end(),
                                    [&](const Field& item) { return item.name == key; });
    if (field != schema.fields().end()) {
      const std::string problem =
          std::visit(Reader(*field, *data_->Find(dotted), source), field->target);
      if (!problem.empty())
        report(Problem(Str("config key '", dotted, "': ", problem), source.origin, field->doc));
    } else if (std::find(known.begin(), known.end(), key) == known.end()) {
      report(Problem(Str("unknown config key '", dotted, "'"), source.origin,
                     SuggestName(key, known)));
    }
  }
}

ConfigDocument ConfigDocument::Load(const fs::path& path,
                                    const std::vector<std::string>& overrides) {
  ConfigLoader loader;
  loader.AddFile(path);
  for (const std::string& text : overrides) loader.AddOverride(text);
  ConfigDocument document;
  document.root_ = std::make_shared<ConfigSection::Data>(
      ConfigSection::Data{std::move(loader.table), std::move(loader.sources)});
  document.path_ = path;
  return document;
}

ConfigDocument ConfigDocument::Parse(const std::string& text, const std::string& origin,
                                     const std::vector<std::string>& overrides) {
  ConfigLoader loader;
  loader.AddText(text, origin);
  for (const std::string& item : overrides) loader.AddOverride(item);
  ConfigDocument document;
  document.root_ = std::make_shared<ConfigSection::Data>(
      ConfigSection::Data{std::move(loader.table), std::move(loader.sources)});
  document.path_ = origin;
  return document;
}

ConfigSection ConfigDocument::Section(const std::string& name) const {
  ConfigSection section;
  section.data_ = root_;
  section.name_ = name;
  return section;
}

std::vector<std::string> ConfigDocument::sections() const { return Section("").keys(); }

void ConfigDocument::CheckSections(const std::vector<std::string>& known,
                                   std::vector<std::string>& problems) const {
  for (const auto& [key, node] : root_->table) {  // not by Find: a quoted key may hold dots
    const std::string name(key.str());
    const bool is_table = node.is_table();
    if (std::find(known.begin(), known.end(), name) == known.end())
      problems.push_back(
          Problem(Str("unknown config ", is_table ? "table" : "key", " '", name, "'"),
                  root_->SourceOf(name).origin, SuggestName(name, known)));
    else if (!is_table)
      problems.push_back(root_->NotATable(name));
  }
}

fs::path ConfigDocument::ResolvePath(const std::string& section, const std::string& key,
                                     const std::string& value) const {
  return (root_->SourceOf(DottedKey(section, key)).folder / value).lexically_normal();
}

void ThrowIfProblems(const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  if (problems.size() == 1) throw Error(ErrorKind::kConfig, problems.front());
  std::string message = Str(problems.size(), " problems in the config");
  for (const std::string& problem : problems) message += "\n" + problem;
  throw Error(ErrorKind::kConfig, std::move(message));
}

}  // namespace espalier
