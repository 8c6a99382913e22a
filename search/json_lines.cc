#include "search/json_lines.h"

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/checked_json.h"

namespace espalier {

void ReadJsonLines(const std::filesystem::path& file, const std::string& hint,
                   const std::function<void(size_t number, const nlohmann::json& line)>& take) {
  const std::string text = ReadFile(file);
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn
    try {
      take(number, ParseCheckedJson(text.substr(begin, end - begin)));
    } catch (const std::exception& error) {
      throw Error(ErrorKind::kData, Str("'", file.string(), "' line ", number, ": ", error.what()),
                  hint);
    }
    begin = end + 1;
  }
}

}  // namespace espalier
