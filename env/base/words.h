#pragma once

#include <set>
#include <sstream>
#include <string>

namespace espalier {

/// "a b c" -> {"a", "b", "c"}, each behind `prefix`: long lists of names.
inline std::set<std::string> Words(const std::string& text, const std::string& prefix = "") {
  std::istringstream in(text);
  std::set<std::string> words;
  for (std::string word; in >> word;) words.insert(prefix + word);
  return words;
}

}  // namespace espalier
