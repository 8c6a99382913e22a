#include "experiments/space_text.h"

#include <gtest/gtest.h>

#include <sstream>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "experiments/folding.h"
#include "experiments/space_graph.h"
#include "experiments/space_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

/// stem -> branch added to the stem's output -> fc. Two groups: 4 units of the trunk, 6 inside.
Network Residual() {
  Builder b("small", 1);
  const ValueId x = b.Relu(
      b.BatchNorm2d("bn", b.Conv2d("stem", b.Input("x", {2, 3, 8, 8}), 3, 4, {.padding = 1}), 4));
  ValueId y = b.Relu(b.Conv2d("block.0.conv1", x, 4, 6, {.padding = 1}));
  y = b.Conv2d("block.0.conv2", y, 6, 4, {.padding = 1});
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(b.Add(x, y, "block.0"))), 4, 3)});
}

TEST(SpaceJsonUnit, GovernedCostIsAllUnitsAgainstOne) {
  const Network network = Residual();
  const Space space = BuildSpace(network);
  const CostModel cost(space);
  const auto governed = GovernedCosts(cost);
  ASSERT_EQ(space.groups()[1].name, "block.0.conv1");
  // Six units of the inner width against one: conv1 and conv2 lose 5 * 4 * 9 weights each, and as
  // many MACs at each of 64 positions.
  EXPECT_EQ(governed[1].params, 2 * 5 * 4 * 9);
  EXPECT_EQ(governed[1].macs, 2 * 5 * 4 * 9 * 64);
  // One unit a group: stem 3 * 9, norm 2, conv1 9, conv2 9, fc 3 + 3.
  EXPECT_EQ(LeastCost(cost).params, 27 + 2 + 9 + 9 + 6);
}

TEST(SpaceJsonUnit, HasWhatThePageSaysAndIndicesWhenAsked) {
  const Network network = Residual();
  const Space space = BuildSpace(network);
  const CostModel cost(space);
  const auto json = SpaceToJson(space, cost);
  EXPECT_EQ(json["groups"][1]["governs"]["params"], 360);
  EXPECT_FALSE(json["groups"][1]["members"][0].contains("indices"));
  const auto all = SpaceToJson(space, cost, true);
  EXPECT_EQ(all["groups"][1]["members"][0]["indices"], (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(json["pinned"][0]["parameter"], "fc.weight");
  EXPECT_EQ(json["cost"]["canonical"]["least_params"], 53);
}

ordered_json ManyGroups(int64_t count) {
  ordered_json space = {
      {"network", "deep"}, {"units", 8 * count}, {"groups", ordered_json::array()}};
  for (int64_t i = 0; i < count; ++i)
    space["groups"].push_back({{"name", Str("encoder.a_rather_long_component_name.layers.", i,
                                            ".attention.output.dense")},
                               {"kind", "channel"},
                               {"units", i % 2 ? 8 : 16},
                               {"blocks", i % 2 ? 1 : 4},
                               {"exact", i % 2 == 0},
                               {"governs", {{"macs", 2'000'000}, {"params", 10}}},
                               {"members", {{{"parameter", "w"}, {"axis", 0}}}}});
  space["pinned"] = {
      {{"parameter", "fc.weight"}, {"axis", 0}, {"count", 10}, {"reason", "network output"}}};
  for (int64_t i = 0; i < count; ++i)
    space["pinned"].push_back(
        {{"parameter", Str("layers.", i, ".weight")},
         {"axis", 0},
         {"count", i % 7 + 1},
         {"reason",
          Str("aten::some_operator_with_a_long_name at 'encoder.a_rather_long_component_name",
              ".layers.", i, ".attention': no rule for this operator")}});
  space["cost"] = {
      {"canonical",
       {{"macs", 1'000'000'000}, {"params", 25'000'000}, {"least_macs", 1}, {"least_params", 2}}},
      {"activation_bytes", 4096}};
  space["uncounted"] = {"aten::gelu at 'layers.0'", "aten::gelu at 'layers.1'"};
  return space;
}

TEST(SpaceTextUnit, TwoHundredGroupsFitOnAPageOf100Columns) {
  const std::string text = SpaceText(ManyGroups(200), false);
  std::istringstream lines(text);
  int64_t count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_LE(TextWidth(line), 100u) << line;
  EXPECT_LT(count, 50);
  for (const char* part :
       {"x 100", "200.00 M", "{0-199}", "channel *", "1,000,000,000", "3 more lines",
        "network output (1 axis, 10 coordinates)", "'layers.{0-1}'"})
    EXPECT_NE(text.find(part), std::string::npos) << part << '\n' << text;
}

TEST(SpaceTextUnit, AllGivesEveryGroupItsLine) {
  const std::string text = SpaceText(ManyGroups(200), true);
  for (const int group : {0, 7, 199}) {
    const std::string name = Str(".layers.", group, ".attention.output.dense ");
    EXPECT_NE(text.find(name), std::string::npos) << name;
  }
  EXPECT_NE(text.find("layers.198.weight axis 0: 3 coordinates"), std::string::npos);
  EXPECT_EQ(text.find("--all"), std::string::npos);
}

TEST(SpaceGraphUnit, LayersAreBoxesSumsAreSmallTheRestIsContracted) {
  const Network network = Residual();
  const Space space = BuildSpace(network);
  const CostModel cost(space);
  const std::string dot = SpaceToDot(space, cost);
  const auto count = [&](const std::string& text) {
    int64_t found = 0;
    for (size_t at = dot.find(text); at != std::string::npos; at = dot.find(text, at + 1)) ++found;
    return found;
  };
  // x, stem with its norm, conv1, conv2, +, fc, output: the activations and the pool are gone.
  EXPECT_EQ(count(", tooltip=\""), 7);
  // x-stem, stem-conv1, conv1-conv2, conv2-sum, stem-sum, sum-fc, fc-output.
  EXPECT_EQ(count(" -> n"), 7);
  for (const char* part :
       {"<b>stem</b> <font color=\"#5b6678\">+ bn</font>", "3 \u2192 4, 3\u00d73",
        "label=\"block.0\"", "<b>conv1</b>", "shape=circle", "group block.0.conv1: 6 units",
        "governs 23.0 k MACs", "pinned: fc.weight axis 0, 3 coordinates: network output"})
    EXPECT_NE(dot.find(part), std::string::npos) << part << '\n' << dot;
  // Trunk and branch meet in one group, hence in one colour; the pinned layer has none.
  const auto fill = [&](const std::string& mark) {
    const size_t line = dot.find(mark), end = dot.find('\n', line),
                 at = dot.find("fillcolor=", line);
    return at < end ? dot.substr(at, 27) : "";
  };
  EXPECT_EQ(fill("<b>stem</b>"), fill("<b>conv2</b>"));
  EXPECT_NE(fill("<b>stem</b>"), fill("<b>conv1</b>"));
  EXPECT_EQ(fill("<b>fc</b>"), "");
}

TEST(SpaceGraphUnit, OtherFilesThanDrawingsAreRefused) {
  EXPECT_THROW(CheckGraphFile("graph.txt"), Error);
  EXPECT_NO_THROW(CheckGraphFile("graph.dot"));
}

}  // namespace
}  // namespace espalier
