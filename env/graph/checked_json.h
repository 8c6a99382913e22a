#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "env/base/error.h"

namespace espalier {

inline constexpr uint64_t kMaxJsonBytes = uint64_t{256} << 20;
inline constexpr int kMaxJsonDepth = 64;  ///< also keeps the recursion of dump() small

/// JSON of a file nobody vouches for: texts over kMaxJsonBytes, duplicate keys and nesting beyond
/// `max_depth` are refused. `names`, when given, receives the keys of the members of members (depth
/// 2), in the text's order, which json does not keep.
/// Errors   kModel with the byte offset inside `text`.
nlohmann::json ParseCheckedJson(std::string_view text, int max_depth = kMaxJsonDepth,
                                std::vector<std::string>* names = nullptr);

/// The same for a file. Errors: kIo, and kModel naming the file.
nlohmann::json ReadCheckedJson(const std::filesystem::path& path);

/// The value, if it is of exactly this type; whole numbers must fit, nothing is converted.
/// Errors   kModel saying what is expected.
int64_t IntOf(const nlohmann::json& value);
bool BoolOf(const nlohmann::json& value);
double NumberOf(const nlohmann::json& value);  ///< finite
const std::string& TextOf(const nlohmann::json& value);

/// The member `key` of an object. Errors: kModel naming the key.
const nlohmann::json& JsonMember(const nlohmann::json& object, const char* key);
[[noreturn]] void ThrowBadMember(const char* key, const std::string& problem);
/// The same, read by one of the above: JsonMember(json, "version", IntOf).
template <typename Read>
auto JsonMember(const nlohmann::json& object, const char* key, const Read& read) {
  const nlohmann::json& value = JsonMember(object, key);
  try {
    return read(value);
  } catch (const Error& error) {
    ThrowBadMember(key, error.message());
  }
}

}  // namespace espalier
