#include "env/base/call_text.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr const char* kForm = "write NAME or NAME(key=value, key=value)";

std::string Trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

/// Parts between commas that stand in no bracket and no quotes.
std::vector<std::string> TopLevelParts(const std::string& what, const std::string& text,
                                       const std::string& options) {
  std::vector<std::string> parts(1);
  int depth = 0;
  char quote = 0;
  for (const char c : options) {
    if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '(' || c == '[') {
      ++depth;
    } else if (c == ')' || c == ']') {
      --depth;
    } else if (c == ',' && depth == 0) {
      parts.emplace_back();
      continue;
    }
    if (depth < 0 || c == '\n') break;
    parts.back() += c;
  }
  if (depth != 0 || quote != 0 || options.find('\n') != std::string::npos)
    throw Error(ErrorKind::kConfig, Str(what, " '", text, "': brackets or quotes do not match"),
                kForm);
  return parts;
}

std::string TomlValue(const std::string& value) {
  if (value == "true" || value == "false" || value.empty()) return value;
  if (value.front() == '"' || value.front() == '\'' || value.front() == '[') return value;
  double number = 0;
  const auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (code == std::errc() && end == value.data() + value.size()) return value;
  if (value.find('"') != std::string::npos) return Str('\'', value, '\'');
  return Str('"', value, '"');
}

}  // namespace

bool CallText::Has(const std::string& key) const {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

CallText ParseCall(const std::string& what, const std::string& text) {
  CallText call;
  const size_t open = text.find('(');
  call.name = Trimmed(text.substr(0, open));
  if (open == std::string::npos) return call;
  const std::string rest = Trimmed(text.substr(open + 1));
  if (rest.empty() || rest.back() != ')')
    throw Error(ErrorKind::kConfig, Str(what, " '", text, "': ')' is missing"), kForm);
  const std::string options = rest.substr(0, rest.size() - 1);
  if (Trimmed(options).empty()) return call;
  for (const std::string& part : TopLevelParts(what, text, options)) {
    const size_t equals = part.find('=');
    const std::string key = Trimmed(std::string_view(part).substr(0, equals));
    if (equals == std::string::npos || key.empty())
      throw Error(ErrorKind::kConfig,
                  Str(what, " '", text, "': '", Trimmed(part), "' is no option"), kForm);
    call.keys.push_back(key);
    call.options +=
        Str(key, " = ", TomlValue(Trimmed(std::string_view(part).substr(equals + 1))), "\n");
  }
  return call;
}

}  // namespace espalier
