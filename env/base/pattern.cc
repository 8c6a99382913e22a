#include "env/base/pattern.h"

#include <cstddef>

namespace espalier {

bool MatchesPattern(std::string_view text, std::string_view pattern) {
  size_t at = 0, star = std::string_view::npos, resume = 0, t = 0;
  while (t < text.size()) {
    if (at < pattern.size() && pattern[at] == '*') {
      star = at++;  // takes nothing at first, and more whenever what follows does not fit
      resume = t;
    } else if (at < pattern.size() && pattern[at] == text[t]) {
      ++at;
      ++t;
    } else if (star != std::string_view::npos) {
      at = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (at < pattern.size() && pattern[at] == '*') ++at;
  return at == pattern.size();
}

}  // namespace espalier
