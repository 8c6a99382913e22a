#include "experiments/folding.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TEST(FoldingUnit, NamesOfOnePatternAreToldAsOne) {
  EXPECT_EQ(NamePattern("layer1.0.conv12"), "layer#.#.conv#");
  EXPECT_EQ(MergedName({"layer1.0.conv1", "layer1.1.conv1", "layer1.5.conv1"}),
            "layer1.{0-1,5}.conv1");
  EXPECT_EQ(MergedName({"a1.b2", "a3.b2", "a1.b4"}), "a{1,3}.b{2,4}");
  EXPECT_EQ(MergedName({"fc"}), "fc");
  // Padded numbers and hashes are text: a merged name must stand for names that exist.
  EXPECT_NE(NamePattern("w01"), NamePattern("w1"));
  EXPECT_EQ(NamePattern("w1234567890"), "w1234567890");
}

TEST(FoldingUnit, OnlyEqualRestsFoldInOrderOfFirstAppearance) {
  const std::vector<std::string> names = {"a1", "b1", "a2", "a3"}, rest = {"x", "x", "y", "x"};
  using Rows = std::vector<std::vector<size_t>>;
  EXPECT_EQ(FoldNames(names, rest, true), (Rows{{0, 3}, {1}, {2}}));
  EXPECT_EQ(FoldNames(names, rest, false), (Rows{{0}, {1}, {2}, {3}}));
}

TEST(FoldingUnit, LongTextLosesItsMiddleAndBreaksAtBlanks) {
  EXPECT_EQ(Shortened("encoder.layers.3.attention.out", 13), "enco\u2026tion.out");
  EXPECT_EQ(Shortened("short", 13), "short");
  EXPECT_EQ(Wrapped("one two three", "  ", 9), "  one two\n  three\n");
}

TEST(FoldingUnit, NumbersForPeople) {
  EXPECT_EQ(NumberRanges({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
  EXPECT_EQ(NumberRanges({3}, ", "), "3");
  EXPECT_EQ(NumberRanges({1, 8, 15, 22, 29, 36}), "1,8,..,36");
  EXPECT_EQ(NumberRanges({1, 8, 15}), "1,8,15");
  EXPECT_EQ(TextWidth("ab\nab\u2026d\n"), 4u);
  EXPECT_EQ(NumberRanges({}), "");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1234567), "1,234,567");
  EXPECT_EQ(WithCommas(-1000), "-1,000");
}

}  // namespace
}  // namespace espalier
