#include "env/base/config_loader.h"

#include <algorithm>
#include <utility>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier::internal {
namespace {

namespace fs = std::filesystem;

std::string Trim(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// The last character of the string that begins at `at`; one of a single line ends with the line.
size_t SkipString(const std::string& text, size_t at, bool block, int& line) {
  const char quote = text[at];
  size_t quotes = 0;  // in a row
  for (at += block ? 3 : 1; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n' && !block) return at - 1;
    line += c == '\n';
    if (c == '\\' && quote == '"') {
      line += ++at < text.size() && text[at] == '\n';
      quotes = 0;
      continue;
    }
    quotes = c == quote ? quotes + 1 : 0;
    if (quotes == 1 && !block) return at;
    // A block may end in up to two more quotes that belong to its text.
    if (quotes == 5 || (quotes >= 3 && (at + 1 == text.size() || text[at + 1] != quote))) return at;
  }
  return at;
}

void InsertOverride(toml::table& parent, const std::string& key, const std::string& raw,
                    const std::string& text) {
  try {
    toml::table parsed = toml::parse("value = " + raw);
    toml::node* const node = parsed.get("value");
    const bool plain =
        node && parsed.size() == 1 && !node->is_date() && !node->is_time() && !node->is_date_time();
    if (plain) {
      node->visit([&](auto&& value) { parent.insert_or_assign(key, std::move(value)); });
      return;
    }
  } catch (const toml::parse_error& problem) {
    if (!raw.empty() && std::string_view("[{\"'").find(raw.front()) != std::string_view::npos)
      ThrowConfigAt(Str("bad override '", text, "': ", problem.description()), "--set",
                    "quote the argument for the shell: --set 'a.b=[1, 2]'");
  }
  parent.insert_or_assign(key, raw);  // a bare word is a string: --set data.name=cifar10
}

/// Refuses keys of more than kMostParts parts ("a.b.c" has three) and values nested deeper than
/// kMostNested: the parser makes a table of each part, and tables nested by the ten thousand
/// overflow the stack of whoever walks them.
void CheckDepth(const std::string& text, const std::string& origin) {
  constexpr int kMostParts = 16, kMostNested = 16;
  int parts = 1, nested = 0, line = 1;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    line += c == '\n';
    if (c == '#') {
      at = std::min(text.find('\n', at), text.size()) - 1;
    } else if (c == '"' || c == '\'') {
      const bool block = text.compare(at, 3, std::string(3, c)) == 0;
      at = SkipString(text, at, block, line);
    } else if (c == '.') {
      ++parts;
    } else if (std::string_view("\n=,[]{}").find(c) != std::string_view::npos) {
      parts = 1;
      nested += (c == '[' || c == '{') - (c == ']' || c == '}');
    }
    if (parts > kMostParts)
      ThrowConfigAt(Str("config syntax: a key has more than ", kMostParts, " parts"),
                    Str(origin, ":", line));
    if (nested > kMostNested)
      ThrowConfigAt(Str("config syntax: a value is nested deeper than ", kMostNested, " levels"),
                    Str(origin, ":", line));
  }
}

}  // namespace

std::string DottedKey(const std::string& section, std::string_view key) {
  return section.empty() ? std::string(key) : Str(section, ".", key);
}

std::string FoundType(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "table";
    case toml::node_type::array:
      return "list";
    case toml::node_type::string:
      return "string";
    case toml::node_type::integer:
      return "integer";
    case toml::node_type::floating_point:
      return "number";
    case toml::node_type::boolean:
      return "boolean";
    default:
      return "date or time";
  }
}

void ThrowConfigAt(const std::string& what, const std::string& origin, const std::string& hint) {
  throw Error(ErrorKind::kConfig, Str(what, "\n  --> ", origin), hint);
}

void ConfigLoader::AddText(const std::string& text, const std::string& origin) {
  CheckDepth(text, origin);
  toml::table parsed;
  try {
    parsed = toml::parse(text, origin);
  } catch (const toml::parse_error& problem) {
    ThrowConfigAt(
        Str("config syntax: ", problem.description()),
        Str(origin, ":", problem.source().begin.line, ":", problem.source().begin.column));
  }
  const fs::path folder = fs::path(origin).parent_path();
  if (const toml::node* include = parsed.get("include")) AddIncludes(*include, origin, folder);
  parsed.erase("include");
  Merge(table, std::move(parsed), "", origin, folder);
}

void ConfigLoader::AddFile(const fs::path& path) {
  const fs::path identity = fs::weakly_canonical(path);
  if (std::find(open_.begin(), open_.end(), identity) != open_.end())
    throw Error(ErrorKind::kConfig, Str("config ", path, " includes itself"));
  constexpr int kMostFiles = 64;  // includes of includes multiply
  if (++files_ > kMostFiles)
    throw Error(ErrorKind::kConfig,
                Str("config ", path, ": more than ", kMostFiles, " files are included"));
  open_.push_back(identity);
  constexpr uint64_t kMostBytes = 1 << 20;
  AddText(ReadFile(path, kMostBytes), path.string());
  open_.pop_back();
}

void ConfigLoader::AddOverride(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string key = Trim(text.substr(0, equals));
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.' ||
      key.find("..") != std::string::npos)
    ThrowConfigAt(Str("bad override '", text, "'"), "--set", "expected --set section.key=value");
  if (key == "include") ThrowConfigAt("'include' belongs into a file", "--set");
  const std::string raw = Trim(text.substr(equals + 1));

  toml::table* parent = &table;
  size_t start = 0;
  for (size_t dot; (dot = key.find('.', start)) != std::string::npos; start = dot + 1) {
    const std::string part = key.substr(start, dot - start);
    if (!parent->contains(part)) parent->insert(part, toml::table{});
    toml::table* const child = parent->get(part)->as_table();
    if (!child)
      ThrowConfigAt(Str("bad override '", text, "': '", key.substr(0, dot), "' is not a table"),
                    "--set");
    parent = child;
  }
  InsertOverride(*parent, key.substr(start), raw, text);
  Forget(key);
  sources[key] = {.origin = "--set", .folder = {}, .raw = raw};
}

void ConfigLoader::AddIncludes(const toml::node& include, const std::string& origin,
                               const fs::path& folder) {
  const std::string here = Str(origin, ":", include.source().begin.line);
  std::vector<std::string> names;
  if (const auto* one = include.as_string()) names.push_back(one->get());
  if (const auto* list = include.as_array()) {
    for (const toml::node& item : *list) {
      if (!item.is_string()) ThrowConfigAt("'include' wants a list of file names", here);
      names.push_back(item.as_string()->get());
    }
  } else if (names.empty()) {
    ThrowConfigAt(Str("'include' wants a file name or a list of them, found ", FoundType(include)),
                  here);
  }
  for (const std::string& name : names) {
    const fs::path path = (folder / name).lexically_normal();
    try {
      AddFile(path);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kConfig && error.message().find("-->") != std::string::npos)
        throw;  // it knows its place already
      ThrowConfigAt(Str("cannot include '", name, "': ", error.message()), here,
                    "includes are relative to the file that names them");
    }
  }
}

/// Later keys win; tables are merged key by key.
void ConfigLoader::Merge(toml::table& into, toml::table&& from, const std::string& section,
                         const std::string& origin, const fs::path& folder) {
  for (auto&& [key, node] : from) {
    const std::string name(key.str());
    const std::string dotted = DottedKey(section, name);
    const ConfigSource source{Str(origin, ":", node.source().begin.line), folder, std::nullopt};
    toml::node* const existing = into.get(name);
    if (toml::table* const child = node.as_table()) {
      if (!existing || !existing->is_table()) {
        Forget(dotted);
        into.insert_or_assign(name, toml::table{});
      }
      sources[dotted] = source;
      Merge(*into.get(name)->as_table(), std::move(*child), dotted, origin, folder);
      continue;
    }
    Forget(dotted);
    sources[dotted] = source;
    node.visit([&](auto&& value) { into.insert_or_assign(name, std::move(value)); });
  }
}

/// Forgets a replaced value and, if it was a table, all below it.
void ConfigLoader::Forget(const std::string& dotted) {
  sources.erase(dotted);
  const std::string prefix = dotted + ".";
  const auto first = sources.lower_bound(prefix);
  auto last = first;
  while (last != sources.end() && last->first.starts_with(prefix)) ++last;
  sources.erase(first, last);
}

}  // namespace espalier::internal
