#include "experiments/folding.h"

#include <cctype>
#include <map>
#include <set>
#include <sstream>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr size_t kMostDigits = 9;  // longer runs of digits are hashes, not positions

/// A name taken apart: text[0] number[0] text[1] number[1] ... text[n].
struct Parts {
  std::vector<std::string> text = {""};
  std::vector<int64_t> numbers;
};

Parts TakeApart(const std::string& name) {
  Parts parts;
  for (size_t at = 0; at < name.size();) {
    size_t end = at;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
    const size_t digits = end - at;
    const bool padded = digits > 1 && name[at] == '0';
    if (digits > 0 && digits <= kMostDigits && !padded) {
      parts.numbers.push_back(std::stoll(name.substr(at, digits)));
      parts.text.emplace_back();
      at = end;
      continue;
    }
    const size_t taken = std::max<size_t>(digits, 1);
    parts.text.back() += name.substr(at, taken);
    at += taken;
  }
  return parts;
}

}  // namespace

std::string NamePattern(const std::string& name) {
  const Parts parts = TakeApart(name);
  std::string pattern = parts.text[0];
  for (size_t i = 1; i < parts.text.size(); ++i) pattern += '#' + parts.text[i];
  return pattern;
}

std::string MergedName(const std::vector<std::string>& names) {
  ESPALIER_CHECK(!names.empty());
  const Parts first = TakeApart(names[0]);
  std::vector<std::set<int64_t>> places(first.numbers.size());
  for (const auto& name : names) {
    const Parts parts = TakeApart(name);
    ESPALIER_CHECK(parts.text == first.text, "'", name, "' is not of the form of '", names[0], "'");
    for (size_t i = 0; i < places.size(); ++i) places[i].insert(parts.numbers[i]);
  }
  std::string merged = first.text[0];
  for (size_t i = 0; i < places.size(); ++i) {
    const std::string numbers = NumberRanges({places[i].begin(), places[i].end()});
    merged += (places[i].size() > 1 ? "{" + numbers + "}" : numbers) + first.text[i + 1];
  }
  return merged;
}

std::vector<std::vector<size_t>> FoldNames(const std::vector<std::string>& names,
                                           const std::vector<std::string>& rest, bool fold) {
  ESPALIER_CHECK(names.size() == rest.size());
  std::vector<std::vector<size_t>> rows;
  std::map<std::pair<std::string, std::string>, size_t> known;  // -> row
  for (size_t i = 0; i < names.size(); ++i) {
    if (!fold) {
      rows.push_back({i});
      continue;
    }
    const auto [found, fresh] =
        known.emplace(std::pair(NamePattern(names[i]), rest[i]), rows.size());
    if (fresh) rows.emplace_back();
    rows[found->second].push_back(i);
  }
  return rows;
}

std::string Shortened(const std::string& text, size_t width) {
  if (text.size() <= width || width < 5) return text;
  const size_t head = (width - 1) / 3, tail = width - 1 - head;
  return text.substr(0, head) + "\u2026" + text.substr(text.size() - tail);
}

std::string Wrapped(const std::string& text, const std::string& indent, size_t width) {
  std::istringstream words(text);
  std::string out, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && indent.size() + TextWidth(line) + 1 + TextWidth(word) > width) {
      out += indent + line + '\n';
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + indent + line + '\n';
}

std::string NumberRanges(const std::vector<int64_t>& numbers, const std::string& comma) {
  const size_t count = numbers.size();
  if (count > 5) {  // every second, every seventh, ...
    const int64_t step = numbers[1] - numbers[0];
    bool even = step > 1;
    for (size_t i = 2; i < count; ++i) even = even && numbers[i] - numbers[i - 1] == step;
    if (even) return Str(numbers[0], comma, numbers[1], comma, "..", comma, numbers.back());
  }
  std::string text;
  for (size_t at = 0; at < count;) {
    size_t last = at;
    while (last + 1 < count && numbers[last + 1] == numbers[last] + 1) ++last;
    text += Str(text.empty() ? "" : comma, numbers[at]);
    if (last > at) text += Str('-', numbers[last]);
    at = last + 1;
  }
  return text;
}

size_t TextWidth(const std::string& text) {
  size_t width = 0, longest = 0;
  for (const char c : text) {
    width = c == '\n' ? 0 : width + ((static_cast<unsigned char>(c) & 0xC0) != 0x80);
    longest = std::max(longest, width);  // code points, not bytes
  }
  return longest;
}

std::string WithCommas(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t first = number < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3;) digits.insert(at -= 3, ",");
  return digits;
}

}  // namespace espalier
