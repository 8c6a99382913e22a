#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace espalier {

/// What keeps listings of deep networks short: names that differ in numbers only are told once.

/// The name with '#' for every number: equal for names that MergedName can tell as one.
std::string NamePattern(const std::string& name);

/// Names of one pattern as one text, with the numbers that occur in each place:
/// {"layer1.0.conv1", "layer1.1.conv1", "layer1.5.conv1"} -> "layer1.{0-1,5}.conv1".
/// Several places may vary at once; the text then stands for some of the combinations.
std::string MergedName(const std::vector<std::string>& names);

/// Indices of items that are told as one: equal pattern of the name and equal `rest`, in order of
/// first appearance. Without `fold` every item stands alone. names and rest: [items].
std::vector<std::vector<size_t>> FoldNames(const std::vector<std::string>& names,
                                           const std::vector<std::string>& rest, bool fold);

/// At most `width` characters: a longer text loses its middle.
std::string Shortened(const std::string& text, size_t width);

/// Text broken at blanks into lines of at most `width` characters, every line behind `indent`.
std::string Wrapped(const std::string& text, const std::string& indent, size_t width = 98);

/// {0, 1, 2, 5} -> "0-2,5"; {0, 2, 4, 6, 8, 10} -> "0,2,..,10". numbers: ascending.
std::string NumberRanges(const std::vector<int64_t>& numbers, const std::string& comma = ",");

size_t TextWidth(const std::string& text);  ///< characters of the longest line

std::string WithCommas(int64_t number);  ///< "1,234,567"

}  // namespace espalier
