#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "env/base/error.h"
#include "env/cost/cost.h"
#include "env/graph/builder.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "tests/env/space/expect_exact.h"
#include "tests/env/space/random_selection.h"

// Units that run along several axes of one tensor: heads and their dims, packed projections,
// statistics over units, states of recurrent layers. Expected sets are those of the specification's
// worked examples.

namespace espalier {
namespace {

using Ints = std::vector<int64_t>;
constexpr int64_t kWidth = 24, kHeads = 4, kDim = 6, kLength = 5;

ValueId View(Builder& b, ValueId x, const Ints& sizes) {
  return b.Call("aten::reshape", "", {{"self", x}, {"shape", c10::IValue(sizes)}});
}
ValueId Transpose(Builder& b, ValueId x, int64_t a, int64_t c) {
  return b.Call("aten::transpose", "int",
                {{"self", x}, {"dim0", c10::IValue(a)}, {"dim1", c10::IValue(c)}});
}
ValueId Heads(Builder& b, ValueId x, int64_t heads) {
  return Transpose(b, View(b, x, {-1, kLength, heads, kDim}), 1, 2);
}
ValueId Merged(Builder& b, ValueId x) {
  return View(b, Transpose(b, x, 1, 2), {-1, kLength, kWidth});
}
ValueId Attend(Builder& b, ValueId q, ValueId k, ValueId v) {
  const ValueId scores =
      b.Call("aten::matmul", "", {{"self", q}, {"other", Transpose(b, k, 2, 3)}});
  const ValueId weights =
      b.Call("aten::softmax", "int", {{"self", scores}, {"dim", c10::IValue(-1)}});
  return b.Call("aten::matmul", "", {{"self", weights}, {"other", v}});
}

/// Linear layers for query, key and value, explicit products, a projection and a head.
Network SeparateAttention() {
  Builder b("attention", 1);
  const ValueId x = b.Input("x", {2, kLength, 8});
  const ValueId q = Heads(b, b.Linear("q", x, 8, kWidth), kHeads);
  const ValueId k = Heads(b, b.Linear("k", x, 8, kWidth), kHeads);
  const ValueId v = Heads(b, b.Linear("v", x, 8, kWidth), kHeads);
  const ValueId out = b.Linear("proj", Merged(b, Attend(b, q, k, v)), kWidth, 16);
  return b.Finish({b.Linear("head", b.Relu(out), 16, 3)});
}

const Group& Named(const Space& space, const std::string& name) {
  const int32_t index = space.FindGroup(name);
  EXPECT_GE(index, 0) << name;
  return space.groups()[static_cast<size_t>(std::max(index, 0))];
}

TEST(AttentionSpaceUnit, QueriesAndKeysShareDimsAndEveryHeadKeepsAsMany) {
  const Space space = BuildSpace(SeparateAttention());
  const Group& scores = Named(space, "q");
  EXPECT_EQ(scores.kind, "head_dim");
  EXPECT_EQ(scores.units, kWidth);
  EXPECT_EQ(scores.blocks, kHeads);
  EXPECT_EQ(Named(space, "v").blocks, kHeads);
  Selection unequal = KeepAll(space);
  unequal[static_cast<size_t>(space.FindGroup("q"))].erase(
      unequal[static_cast<size_t>(space.FindGroup("q"))].begin());
  EXPECT_THROW(MakePlan(space, unequal), Error);
  ExpectExact(SeparateAttention(), {});
}

TEST(AttentionSpaceUnit, WholeHeadsGoWithAllTheirDims) {
  const Space space = BuildSpace(SeparateAttention(), {.attention = "heads"});
  const Group& heads = Named(space, "q.heads");
  EXPECT_EQ(heads.kind, "head");
  EXPECT_EQ(heads.units, kHeads);
  Selection selection = KeepAll(space);
  selection[static_cast<size_t>(space.FindGroup("q.heads"))] = {0, 2, 3};
  const Plan plan = MakePlan(space, selection);
  Ints rows;
  for (int64_t i = 0; i < kWidth; ++i)
    if (i / kDim != 1) rows.push_back(i);
  for (const char* layer : {"q.weight", "k.weight", "v.weight"})
    EXPECT_EQ(plan.kept.at(layer)[0].kept[0], rows) << layer;
  EXPECT_EQ(plan.kept.at("proj.weight")[0].axis, 1);
  ExpectExact(SeparateAttention(), {.attention = "heads"});
  ExpectExact(SeparateAttention(), {.attention = "both"});
}

TEST(AttentionSpaceUnit, APackedProjectionLosesThreeRowsADim) {
  // Linear(E -> 3E) viewed as [3, heads, dim]: every part keeps the same number per head.
  Builder b("packed", 1);
  const ValueId x = b.Input("x", {2, kLength, 8});
  const ValueId packed = View(b, b.Linear("qkv", x, 8, 3 * kWidth), {-1, kLength, 3, kHeads, kDim});
  const ValueId moved =
      b.Call("aten::permute", "", {{"self", packed}, {"dims", c10::IValue(Ints{2, 0, 3, 1, 4})}});
  const auto parts = b.CallMulti("aten::unbind", "int", {{"self", moved}}, 3);
  const ValueId out =
      b.Linear("proj", Merged(b, Attend(b, parts[0], parts[1], parts[2])), kWidth, 8);
  const Network net = b.Finish({b.Linear("head", out, 8, 3)});
  const Space space = BuildSpace(net);
  const Group& group = Named(space, "qkv");
  EXPECT_EQ(group.units, 2 * kWidth);  // dims of the scores, and of the values
  EXPECT_EQ(group.blocks, 2 * kHeads);
  Selection selection = KeepAll(space);
  auto& kept = selection[static_cast<size_t>(space.FindGroup("qkv"))];
  std::erase_if(kept, [](int64_t unit) { return unit % kDim == 2; });  // dim 2 everywhere
  const Plan plan = MakePlan(space, selection);
  Ints rows;
  for (int64_t i = 0; i < 3 * kWidth; ++i)
    if (i % kDim != 2) rows.push_back(i);
  EXPECT_EQ(plan.kept.at("qkv.weight")[0].kept[0], rows);
  for (const char* attention : {"dims", "heads", "both"})
    ExpectExact(net, {.attention = attention});
}

TEST(AttentionSpaceUnit, QueriesOfOneKeyHeadGoTogether) {
  // 4 query heads on 2 key/value heads, each serving 2: query (head 3, dim 1) meets key (head 1,
  // dim 1).
  Builder b("grouped", 1);
  const ValueId x = b.Input("x", {2, kLength, 8});
  const auto repeated = [&](const std::string& layer) {
    return b.Call("aten::repeat_interleave", "self_int",
                  {{"self", Heads(b, b.Linear(layer, x, 8, 2 * kDim), 2)},
                   {"repeats", c10::IValue(2)},
                   {"dim", c10::IValue(1)}});
  };
  const ValueId q = Heads(b, b.Linear("q", x, 8, kWidth), kHeads);
  const ValueId out =
      b.Linear("proj", Merged(b, Attend(b, q, repeated("k"), repeated("v"))), kWidth, 8);
  const Network net = b.Finish({b.Linear("head", out, 8, 3)});
  const Space space = BuildSpace(net, {.attention = "both"});
  const Group& group = Named(space, "q");
  EXPECT_EQ(group.units, 2 * kDim);
  const auto keys = std::find_if(group.members.begin(), group.members.end(),
                                 [](const Member& m) { return m.parameter == "k.weight"; });
  ASSERT_NE(keys, group.members.end());
  const Member& queries = group.members.front();
  ASSERT_EQ(queries.parameter, "q.weight");
  EXPECT_EQ(queries.per_unit, 2);
  for (int64_t unit = 0; unit < group.units; ++unit) {
    const int64_t key = keys->indices[static_cast<size_t>(unit)];
    EXPECT_EQ(queries.indices[static_cast<size_t>(2 * unit + 1)] / kDim / 2, key / kDim);
    EXPECT_EQ(queries.indices[static_cast<size_t>(2 * unit + 1)] % kDim, key % kDim);
  }
  EXPECT_EQ(Named(space, "q.heads").kind, "kv_group");
  for (const char* attention : {"dims", "heads", "both"})
    ExpectExact(net, {.attention = attention});
}

TEST(AttentionSpaceUnit, FusedAttentionKeepsTheScaleOfTheUncutWidth) {
  Builder b("fused", 1);
  const ValueId x = b.Input("x", {2, kLength, 8});
  const ValueId q = Heads(b, b.Linear("q", x, 8, kWidth), kHeads);
  const ValueId k = Heads(b, b.Linear("k", x, 8, kWidth), kHeads);
  const ValueId v = Heads(b, b.Linear("v", x, 8, kWidth), kHeads);
  const ValueId mixed =
      b.Call("aten::scaled_dot_product_attention", "", {{"query", q}, {"key", k}, {"value", v}});
  const ValueId out = b.Linear("proj", Merged(b, mixed), kWidth, 8);
  const Network net = b.Finish({b.Linear("head", out, 8, 3)});
  const Space space = BuildSpace(net);
  EXPECT_EQ(Named(space, "q").units, kWidth);  // the values' dims go with the queries'
  for (const Op& op : space.network().graph.ops) {
    if (op.target() != "aten::scaled_dot_product_attention") continue;
    EXPECT_DOUBLE_EQ(op.Constant("scale").toDouble(), 1 / std::sqrt(6.0));
  }
  for (const char* attention : {"dims", "heads", "both"})
    ExpectExact(net, {.attention = attention});
}

TEST(AttentionSpaceUnit, AnUnknownGranularityNamesTheKnownOnes) {
  try {
    BuildSpace(SeparateAttention(), {.attention = "head"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(error.message().find("dims, heads or both"), std::string::npos);
  }
}

TEST(NormSpaceUnit, StatisticsOverCutAxesAreThoseOfTheKeptUnits) {
  Builder b("norms", 1);
  const ValueId x = b.Input("x", {2, kLength, 8});
  const ValueId hidden = b.Linear("fc1", x, 8, 12);
  const ValueId gamma = b.Parameter("ln.weight", at::rand({12}) + 0.5);
  const ValueId beta = b.Parameter("ln.bias", at::randn({12}));
  const ValueId normed = b.Call("aten::layer_norm", "",
                                {{"input", hidden},
                                 {"normalized_shape", c10::IValue(Ints{12})},
                                 {"weight", gamma},
                                 {"bias", beta}});
  const ValueId mean = b.Call("aten::mean", "dim",
                              {{"self", b.Linear("fc2", normed, 12, 10)},
                               {"dim", c10::IValue(Ints{-1})},
                               {"keepdim", c10::IValue(true)}});
  const Network net = b.Finish({b.Add(b.Linear("head", normed, 12, 3), mean)});
  const Space space = BuildSpace(net);
  EXPECT_FALSE(Named(space, "fc1").exact);
  EXPECT_FALSE(Named(space, "fc2").exact);
  ExpectExact(net, {});
}

TEST(NormSpaceUnit, GroupNormKeepsEqualCountsPerGroup) {
  Builder b("group norm", 1);
  const ValueId wide = b.Conv2d("conv", b.Input("x", {2, 3, 6, 6}), 3, 12, {.padding = 1});
  const ValueId normed = b.Call("aten::group_norm", "",
                                {{"input", wide},
                                 {"num_groups", c10::IValue(3)},
                                 {"weight", b.Parameter("gn.weight", at::rand({12}) + 0.5)},
                                 {"bias", b.Parameter("gn.bias", at::randn({12}))}});
  const Network net =
      b.Finish({b.Linear("head", b.Flatten(b.GlobalAvgPool(b.Relu(normed))), 12, 3)});
  const Space space = BuildSpace(net);
  EXPECT_EQ(Named(space, "conv").blocks, 3);
  ExpectExact(net, {});
}

TEST(RecurrentSpaceUnit, AnLstmUnitIsFourRowsAndOneColumn) {
  Builder b("lstm", 1);
  constexpr int64_t kHidden = 8;
  const ValueId x = b.Input("x", {1, kLength, 6});
  ValueList params, state;
  for (const char* suffix : {"l0", "l0_reverse"}) {
    const auto add = [&](const std::string& kind, Ints sizes) {
      params.ids.push_back(b.Parameter("rnn." + kind + "_" + suffix, at::randn(sizes) * 0.3));
    };
    add("weight_ih", {4 * kHidden, 6});
    add("weight_hh", {4 * kHidden, kHidden});
    add("bias_ih", {4 * kHidden});
    add("bias_hh", {4 * kHidden});
  }
  for (int i = 0; i < 2; ++i)
    state.ids.push_back(b.Call("aten::zeros", "", {{"size", c10::IValue(Ints{2, 1, kHidden})}}));
  const auto out = b.CallMulti("aten::lstm", "input",
                               {{"input", x},
                                {"hx", state},
                                {"params", params},
                                {"has_biases", c10::IValue(true)},
                                {"num_layers", c10::IValue(1)},
                                {"dropout", c10::IValue(0.0)},
                                {"train", c10::IValue(false)},
                                {"bidirectional", c10::IValue(true)},
                                {"batch_first", c10::IValue(true)}},
                               3, "rnn");
  Network net = b.Finish({b.Linear("fc", out[0], 2 * kHidden, 3)});
  net.graph.inputs[0].dynamic_batch = false;  // the states are made for one sequence
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 1u);
  const Group& group = space.groups()[0];
  EXPECT_EQ(group.units, 2 * kHidden);
  EXPECT_EQ(group.blocks, 2);
  Selection selection = KeepAll(space);
  std::erase(selection[0], kHidden + 3);  // backward unit 3
  std::erase(selection[0], 0);            // and one forward unit, for equal counts
  const Plan plan = MakePlan(space, selection);
  Ints rows, columns;
  for (int64_t i = 0; i < 4 * kHidden; ++i)
    if (i % kHidden != 3) rows.push_back(i);
  for (int64_t i = 0; i < 2 * kHidden; ++i)
    if (i != 0 && i != kHidden + 3) columns.push_back(i);
  EXPECT_EQ(plan.kept.at("rnn.weight_ih_l0_reverse")[0].kept[0], rows);
  EXPECT_EQ(plan.kept.at("rnn.bias_hh_l0_reverse")[0].kept[0], rows);
  EXPECT_EQ(plan.kept.at("rnn.weight_hh_l0_reverse")[1].kept[0], (Ints{0, 1, 2, 4, 5, 6, 7}));
  EXPECT_EQ(plan.kept.at("fc.weight")[0].kept[0], columns);
  ExpectExact(net, {});
}

}  // namespace
}  // namespace espalier
