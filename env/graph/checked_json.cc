#include "env/graph/checked_json.h"

#include <set>
#include <vector>

#include "env/base/error.h"

namespace espalier {

nlohmann::json ParseCheckedJson(std::string_view text, int max_depth) {
  using nlohmann::json;
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
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    throw Error(ErrorKind::kModel, error.what());
  }
}

}  // namespace espalier
