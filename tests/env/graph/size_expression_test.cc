#include "env/graph/size_expression.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

constexpr const char* kBatch = "Symbol('s77', positive=True, integer=True)";
std::string Times(int64_t factor) {
  return "Mul(Integer(" + std::to_string(factor) + "), " + kBatch + ")";
}

TEST(SizeExpressionUnit, EvaluatesSympysForm) {
  const SymbolValues values = {{"s77", 5}, {"s0", 3}};
  EXPECT_EQ(Evaluate(kBatch, values), 5);
  EXPECT_EQ(Evaluate("s0", values), 3);
  EXPECT_EQ(Evaluate("Integer(-4)", values), -4);
  EXPECT_EQ(Evaluate(Times(6), values), 30);
  EXPECT_EQ(Evaluate("Add(" + Times(2) + ", Symbol('s0', integer=True), Integer(1))", values), 14);
  EXPECT_EQ(Evaluate("FloorDiv(" + Times(1) + ", Integer(2))", values), 2);
  EXPECT_EQ(Evaluate("Mod(Integer(-1), Integer(4))", values), 3);  // as Python's %
  EXPECT_EQ(Evaluate("Pow(s0, Integer(2))", values), 9);
  EXPECT_EQ(Evaluate("Max(s0, s77)", values), 5);
}

TEST(SizeExpressionUnit, SaysNothingAboutWhatItDoesNotKnow) {
  EXPECT_EQ(Evaluate(kBatch, {}), std::nullopt);
  EXPECT_EQ(Evaluate("Where(s0, Integer(1))", {{"s0", 3}}), std::nullopt);
  EXPECT_EQ(Evaluate("FloorDiv(s0, Integer(0))", {{"s0", 3}}), std::nullopt);
  EXPECT_EQ(Evaluate("Pow(s0, Integer(62))", {{"s0", 9}}), std::nullopt);
  for (const char* text : {"", "(", "Mul(", "Mul()", "Mul(s0,", "s0)", "Symbol(s0)", "Symbol('')",
                           "Integer(x)", "1 2", "99999999999999999999"})
    EXPECT_EQ(Evaluate(text, {{"s0", 3}}), std::nullopt) << text;
  std::string deep;
  for (int i = 0; i < 10000; ++i) deep += "Add(";
  EXPECT_EQ(Evaluate(deep, {}), std::nullopt);
}

TEST(SizeExpressionUnit, ListsSymbolsOnce) {
  EXPECT_EQ(SymbolsIn("Add(s1, Mul(s0, s1))"), (std::vector<std::string>{"s1", "s0"}));
  EXPECT_TRUE(SymbolsIn("Integer(3)").empty());
}

TEST(SizeExpressionUnit, RescalesByTheIntegerFactor) {
  const SymbolValues values = {{"s77", 5}};
  EXPECT_EQ(Rescaled(Times(64), 320, 200), Times(40));
  EXPECT_EQ(Rescaled(kBatch, 5, 15), Times(3));
  const std::string halved = Rescaled(kBatch, 5, 2);  // no whole factor: still right here
  EXPECT_EQ(Evaluate(halved, values), 2);
  EXPECT_EQ(Rescaled(kBatch, 0, 2), kBatch);
}

}  // namespace
}  // namespace espalier
