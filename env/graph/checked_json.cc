#include "env/graph/checked_json.h"

#include <cmath>
#include <set>

#include "env/base/files.h"

namespace espalier {
namespace {

using nlohmann::json;

constexpr size_t kShown = 100;  // bytes of a wrong value in a message

[[noreturn]] void Expected(const char* what, const json& found) {
  // Not dump(): a list may be as long as the file, and dump() is recursive.
  const std::string text =
      found.is_structured() ? std::string(found.type_name()) : found.dump().substr(0, kShown);
  throw Error(ErrorKind::kModel, Str(what, " is expected, not ", text));
}

}  // namespace

json ParseCheckedJson(std::string_view text, int max_depth, std::vector<std::string>* names) {
  if (text.size() > kMaxJsonBytes)
    throw Error(ErrorKind::kModel, Str("its JSON has ", text.size(), " bytes, at most ",
                                       kMaxJsonBytes, " are allowed"));
  std::vector<std::set<std::string>> keys;  // of the objects being read, outermost first
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    const auto level = static_cast<size_t>(depth);
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      if (depth >= max_depth)
        throw Error(ErrorKind::kModel, Str("nested deeper than ", max_depth, " levels"));
      if (keys.size() <= level + 1) keys.resize(level + 2);
      keys[level + 1].clear();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (keys.size() <= level) keys.resize(level + 1);
      if (!keys[level].insert(key).second)
        throw Error(ErrorKind::kModel, Str("the key '", key, "' appears twice"));
      if (names && depth == 2) names->push_back(key);
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    throw Error(ErrorKind::kModel, error.what());
  }
}

json ReadCheckedJson(const std::filesystem::path& path) {
  const std::string text = ReadFile(path, kMaxJsonBytes);
  try {
    return ParseCheckedJson(text);
  } catch (const Error& error) {
    throw Error(ErrorKind::kModel, Str("'", path.string(), "': ", error.message()));
  }
}

int64_t IntOf(const json& value) {
  if (!value.is_number_integer()) Expected("a whole number", value);
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)
    Expected("a whole number below 2^63", value);
  return value.get<int64_t>();
}

bool BoolOf(const json& value) {
  if (!value.is_boolean()) Expected("true or false", value);
  return value.get<bool>();
}

double NumberOf(const json& value) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) Expected("a number", value);
  return value.get<double>();
}

const std::string& TextOf(const json& value) {
  if (!value.is_string()) Expected("text", value);
  return value.get_ref<const std::string&>();
}

const json& JsonMember(const json& object, const char* key) {
  if (!object.is_object()) Expected("an object", object);
  const auto found = object.find(key);
  if (found == object.end()) throw Error(ErrorKind::kModel, Str("'", key, "' is missing"));
  return *found;
}

void ThrowBadMember(const char* key, const std::string& problem) {
  throw Error(ErrorKind::kModel, Str("'", key, "': ", problem));
}

}  // namespace espalier
