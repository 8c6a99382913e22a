#include "criteria/value_basis.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "criteria/modular.h"
#include "env/space/plan.h"
#include "tests/support/attention_net.h"

namespace espalier {
namespace {

constexpr int64_t kHeads = AttentionNet::kHeads, kDim = AttentionNet::kDim;

double RelativeError(const Tensor& found, const Tensor& wanted) {
  return ((found - wanted).norm() / wanted.norm()).item<double>();
}

Network With(const Network& network, const ParameterStore& store) {
  Network changed = network;
  changed.store = store;
  return changed;
}

/// Only these dims of every head's values.
Selection OnlyValues(const Space& space, const ValueLayer& layer, const std::vector<size_t>& dims) {
  Selection selection = KeepAll(space);
  for (const ValueHead& head : layer.ways.front()) {
    auto& kept = selection[head.group];
    for (const int64_t unit : head.units) std::erase(kept, unit);
    for (const size_t dim : dims) kept.push_back(head.units[dim]);
    std::ranges::sort(kept);
  }
  return selection;
}

TEST(ValueBasisUnit, TheNetworkStaysTheSameFunction) {
  for (const bool fused : {false, true})
    for (const int64_t key_heads : {kHeads, kHeads / 2}) {
      if (!fused && key_heads != kHeads) continue;
      SCOPED_TRACE(Str(fused, ", key heads ", key_heads));
      const AttentionNet net(fused, key_heads, "dims");
      const ValueBasis basis =
          TurnValues(net.space(), net.network().store, CalibrationOf({net.batch()}));
      ASSERT_EQ(basis.names(), std::vector<std::string>{"v.weight"});
      EXPECT_TRUE(basis.unchanged.empty());
      const std::vector<ValueHead>& heads = basis.layers.front().ways.front();
      ASSERT_EQ(heads.size(), static_cast<size_t>(key_heads));
      EXPECT_EQ(heads.front().columns.size(), static_cast<size_t>(kHeads / key_heads));
      Rng rng(9);
      const Tensor other = RandomTensor(rng, {2, AttentionNet::kLength, 8});  // not calibrated on
      const Tensor wanted = Forward(net.network(), other);
      EXPECT_LT(RelativeError(Forward(With(net.network(), basis.store), other), wanted), 1e-4);
      for (const char* layer : {"v.weight", "v.bias", "proj.weight"})
        EXPECT_FALSE(at::allclose(basis.store.Get(layer), net.network().store.Get(layer))) << layer;
      for (const char* layer : {"q.weight", "proj.bias", "head.weight"})
        EXPECT_TRUE(basis.store.Get(layer).is_same(net.network().store.Get(layer))) << layer;
    }
}

TEST(ValueBasisUnit, TheFirstDimsAreTheBestOnesThereAre) {
  const AttentionNet net(/*fused=*/true, kHeads, "dims");
  const ParameterStore& store = net.network().store;
  const ValueBasis basis = TurnValues(net.space(), store, CalibrationOf({net.batch()}));
  const auto matrix = [](const ParameterStore& from, const char* name) {
    return from.Get(name).to(at::kDouble);
  };
  // The inputs of the values with a 1 for the bias: what the factors have to rebuild on average.
  Tensor x = net.batch().inputs[0].reshape({-1, 8}).to(at::kDouble);
  x = at::cat({x, at::ones({x.size(0), 1}, at::kDouble)}, 1);
  const Tensor gram = at::matmul(x.t(), x) / static_cast<double>(x.size(0));
  const auto layer = [&](const ParameterStore& from, int64_t first, int64_t count) {
    const Tensor v =
        at::cat({matrix(from, "v.weight"), matrix(from, "v.bias").unsqueeze(1)}, 1).t();  // [9, 16]
    return at::matmul(v.narrow(1, first, count),
                      matrix(from, "proj.weight").narrow(1, first, count).t());
  };
  for (int64_t head = 0; head < kHeads; ++head)
    for (int64_t kept = 1; kept < kDim; ++kept) {
      SCOPED_TRACE(Str("head ", head, ", ", kept, " dims"));
      const Tensor whole = layer(store, head * kDim, kDim);
      const auto error = [&](const Tensor& found) {
        const Tensor rest = whole - found;
        return (rest * at::matmul(gram, rest)).sum().item<double>();
      };
      const double tail = SvdTail(gram, whole, at::eye(whole.size(1), at::kDouble))
                              .slice(0, kept)
                              .sum()
                              .item<double>();
      EXPECT_NEAR(error(layer(basis.store, head * kDim, kept)), tail, 1e-3 * tail);
    }
}

TEST(ValueBasisUnit, CutsLoseLessThanCutsOfTheDimsThereWere) {
  for (const int64_t key_heads : {kHeads}) {
    SCOPED_TRACE(key_heads);
    const AttentionNet net(/*fused=*/false, key_heads, "dims");
    const Space& space = net.space();
    const Tensor& input = net.batch().inputs[0];
    const ValueBasis basis = TurnValues(space, net.network().store, CalibrationOf({net.batch()}));
    const Tensor wanted = Forward(net.network(), input);
    double best = 1e9;  // of all choices of the same two dims in every head
    const ValueLayer& layer = basis.layers.front();
    const auto error = [&](const ParameterStore& store, const std::vector<size_t>& dims) {
      const Network cut =
          Cut(With(net.network(), store), MakePlan(space, OnlyValues(space, layer, dims)));
      EXPECT_EQ(cut.store.Get("v.weight").size(0), key_heads * 2);
      return RelativeError(Forward(cut, input), wanted);
    };
    for (size_t a = 0; a < kDim; ++a)
      for (size_t b = a + 1; b < kDim; ++b)
        best = std::min(best, error(net.network().store, {a, b}));
    EXPECT_LT(error(basis.store, {0, 1}), best);
  }
}

TEST(ValueBasisUnit, ValuesOfAPackedProjectionTurnAndItsQueriesStay) {
  Builder b("packed", 1);
  const int64_t width = AttentionNet::kWidth, length = AttentionNet::kLength;
  using Ints = std::vector<int64_t>;
  const auto view = [&](ValueId x, const Ints& sizes) {
    return b.Call("aten::reshape", "", {{"self", x}, {"shape", c10::IValue(sizes)}});
  };
  const ValueId x = b.Input("x", {2, length, 8});
  const ValueId packed = view(b.Linear("qkv", x, 8, 3 * width), {-1, length, 3, kHeads, kDim});
  const ValueId moved =
      b.Call("aten::permute", "", {{"self", packed}, {"dims", c10::IValue(Ints{2, 0, 3, 1, 4})}});
  const auto parts = b.CallMulti("aten::unbind", "int", {{"self", moved}}, 3);
  const ValueId sum = b.Call("aten::scaled_dot_product_attention", "",
                             {{"query", parts[0]}, {"key", parts[1]}, {"value", parts[2]}});
  const ValueId merged =
      view(b.Call("aten::transpose", "int",
                  {{"self", sum}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}}),
           {-1, length, width});
  const Network net = b.Finish({b.Linear("head", b.Linear("proj", merged, width, 8), 8, 3)});
  const Space space = BuildSpace(net);
  Rng rng(1);
  const Batch batch{.inputs = {RandomTensor(rng, {2, length, 8})}, .targets = {}};
  const ValueBasis basis = TurnValues(space, net.store, CalibrationOf({batch}));
  ASSERT_EQ(basis.names(), std::vector<std::string>{"qkv.weight"});
  const std::vector<ValueHead>& heads = basis.layers.front().ways.front();
  ASSERT_EQ(heads.size(), static_cast<size_t>(kHeads));
  EXPECT_EQ(heads.front().rows.front(), 2 * width);
  const Tensor &turned = basis.store.Get("qkv.weight"), &old = net.store.Get("qkv.weight");
  EXPECT_TRUE(at::equal(turned.narrow(0, 0, 2 * width), old.narrow(0, 0, 2 * width)));
  EXPECT_LT(RelativeError(Forward(With(net, basis.store), batch.inputs[0]),
                          Forward(net, batch.inputs[0])),
            1e-4);
}

TEST(ValueBasisUnit, ValuesThatAreBentBeforeTheyAreReadStayAsTheyAre) {
  const AttentionNet net(/*fused=*/true, kHeads, "dims", /*bent=*/true);
  const ValueBasis basis =
      TurnValues(net.space(), net.network().store, CalibrationOf({net.batch()}));
  EXPECT_TRUE(basis.layers.empty());
  ASSERT_EQ(basis.unchanged.size(), 1U);
  EXPECT_TRUE(basis.unchanged.front().starts_with("v.weight: its values are not only added up"))
      << basis.unchanged.front();
  for (const std::string& name : net.network().store.CanonicalNames())
    EXPECT_TRUE(basis.store.Get(name).is_same(net.network().store.Get(name))) << name;
}

TEST(ValueBasisUnit, ValuesThatTwoLayersReadStayAsTheyAre) {
  // A turn for one reader would have to be the other's as well.
  Builder b("two_readers", 1);
  const int64_t width = AttentionNet::kWidth, length = AttentionNet::kLength;
  const ValueId x = b.Input("x", {2, length, 8});
  const auto heads = [&](const std::string& name) {
    const std::vector<int64_t> sizes = {-1, length, kHeads, kDim};
    const ValueId y =
        b.Call("aten::reshape", "",
               {{"self", b.Linear(name, x, 8, width)}, {"shape", c10::IValue(sizes)}});
    return b.Call("aten::transpose", "int",
                  {{"self", y}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
  };
  const ValueId sum = b.Call("aten::scaled_dot_product_attention", "",
                             {{"query", heads("q")}, {"key", heads("k")}, {"value", heads("v")}});
  const ValueId back = b.Call("aten::transpose", "int",
                              {{"self", sum}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
  const ValueId merged =
      b.Call("aten::reshape", "",
             {{"self", back}, {"shape", c10::IValue(std::vector<int64_t>{-1, length, width})}});
  const Network net = b.Finish({b.Linear(
      "head", b.Add(b.Linear("one", merged, width, 6), b.Linear("two", merged, width, 6)), 6, 3)});
  const Space space = BuildSpace(net);
  ASSERT_GE(space.FindGroup("q"), 0);
  EXPECT_EQ(space.groups()[static_cast<size_t>(space.FindGroup("q"))].kind, "head_dim");
  Rng rng(1);
  const Batch batch{.inputs = {RandomTensor(rng, {2, length, 8})}, .targets = {}};
  const ValueBasis basis = TurnValues(space, net.store, CalibrationOf({batch}));
  EXPECT_LT(RelativeError(Forward(With(net, basis.store), batch.inputs[0]),
                          Forward(net, batch.inputs[0])),
            1e-6);
}

TEST(ValueBasisUnit, DirectionsGoWhereScoresAreHigh) {
  const AttentionNet net(/*fused=*/false, kHeads, "dims");
  const Space& space = net.space();
  ValueBasis basis = TurnValues(space, net.network().store, CalibrationOf({net.batch()}));
  const Tensor before = basis.store.Get("v.weight").clone();
  const Tensor wanted = Forward(net.network(), net.batch().inputs[0]);
  Scores scores;
  for (const Group& group : space.groups()) scores.emplace_back(group.units, 0.0);
  const ValueHead& head = basis.layers.front().ways.front()[1];
  const std::vector<double> own = {2, 9, 1, 5};  // of the dims of head 1
  for (size_t dim = 0; dim < own.size(); ++dim)
    scores[head.group][static_cast<size_t>(head.units[dim])] = own[dim];
  const auto rows = [&](const std::vector<int64_t>& order) {
    std::vector<int64_t> all(static_cast<size_t>(before.size(0)));
    std::iota(all.begin(), all.end(), 0);
    for (size_t dim = 0; dim < order.size(); ++dim)
      all[static_cast<size_t>(head.rows[dim])] = head.rows[static_cast<size_t>(order[dim])];
    return before.index_select(0, at::tensor(all, at::kLong));
  };
  basis.Arrange(scores, KeepAll(space));
  EXPECT_TRUE(at::equal(basis.store.Get("v.weight"), rows({2, 0, 3, 1})));
  Network same = With(net.network(), basis.store);
  EXPECT_LT(RelativeError(Forward(same, net.batch().inputs[0]), wanted), 1e-4);
  // Dim 1 is gone: the others share what is left, and what it carried stays where it is.
  Selection left = KeepAll(space);
  std::erase(left[head.group], head.units[1]);
  basis.Arrange(scores, left);
  EXPECT_TRUE(at::equal(basis.store.Get("v.weight"), rows({2, 0, 3, 1})));
  std::swap(scores[head.group][static_cast<size_t>(head.units[0])],
            scores[head.group][static_cast<size_t>(head.units[3])]);
  basis.Arrange(scores, left);
  EXPECT_TRUE(at::equal(basis.store.Get("v.weight"), rows({1, 0, 3, 2})));
}

}  // namespace
}  // namespace espalier
