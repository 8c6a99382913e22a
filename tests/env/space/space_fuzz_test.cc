#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <numeric>
#include <set>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/models.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "tests/env/space/random_selection.h"

// Random networks over the operator table, each cut at random and proven; and the algebra of cuts:
// empty, composed, replayed, reordered.

namespace espalier {
namespace {

/// Draws a random directed acyclic network of convolutions (plain, grouped, depthwise), norms,
/// activations, residual adds, products, gates, concatenations, pools and zero-padded shortcuts.
class RandomNetwork {
 public:
  explicit RandomNetwork(uint64_t seed) : rng_(seed), b_("fuzz", seed) {}

  Network Make() {
    Push(b_.Input("x", {2, 3, 8, 8}), 3);
    Conv();
    const auto steps = 6 + static_cast<int>(rng_.Index(12));
    for (int step = 0; step < steps; ++step) Step();
    std::vector<ValueId> tops;
    int64_t channels = 0;
    const size_t count = std::min<size_t>(values_.size(), 3);
    for (size_t i = values_.size() - count; i < values_.size(); ++i) {
      tops.push_back(b_.GlobalAvgPool(values_[i].id));
      channels += values_[i].channels;
    }
    return b_.Finish({b_.Linear("head", b_.Flatten(b_.Cat(tops)), channels, 5)});
  }

 private:
  struct Item {
    ValueId id;
    int64_t channels;
  };

  void Push(ValueId id, int64_t channels) { values_.push_back({id, channels}); }
  Item Any() { return values_[rng_.Index(values_.size())]; }
  std::string Path(const char* kind) { return Str(kind, layers_++); }

  void Conv() {
    const Item in = Any();
    const int64_t out = 4 * (1 + static_cast<int64_t>(rng_.Index(4)));
    const bool wide = rng_.Uniform() < 0.5;
    Push(b_.Conv2d(Path("conv"), in.id, in.channels, out,
                   {.kernel = wide ? 3 : 1, .padding = wide ? 1 : 0, .bias = rng_.Uniform() < 0.5}),
         out);
  }

  void Grouped() {
    const Item in = Any();
    const bool depthwise = rng_.Uniform() < 0.5;
    const int64_t groups = depthwise ? in.channels : in.channels % 4 == 0 ? 4 : 1;
    const int64_t out = depthwise ? in.channels * (1 + static_cast<int64_t>(rng_.Index(2))) : 8;
    Push(b_.Conv2d(Path("group"), in.id, in.channels, out, {.padding = 1, .groups = groups}), out);
  }

  void Activate() {
    static const std::vector<std::string> kOps = {"aten::relu", "aten::sigmoid", "aten::tanh",
                                                  "aten::hardswish", "aten::silu"};
    const Item in = Any();
    Push(b_.Call(kOps[rng_.Index(kOps.size())], "", {{"self", in.id}}), in.channels);
  }

  void Merge() {
    const Item left = Any();
    std::vector<Item> same;
    for (const Item& item : values_)
      if (item.channels == left.channels) same.push_back(item);
    const Item right = same[rng_.Index(same.size())];
    Push(b_.Call(rng_.Uniform() < 0.7 ? "aten::add" : "aten::mul", "Tensor",
                 {{"self", left.id}, {"other", right.id}}),
         left.channels);
  }

  void Concat() {
    const Item left = Any(), right = Any();
    if (left.channels + right.channels > 48) return Activate();
    Push(b_.Cat({left.id, right.id}), left.channels + right.channels);
  }

  void Gate() {  // squeeze-excite
    const Item in = Any();
    const std::string path = Path("se");
    ValueId s = b_.Conv2d(path + ".down", b_.GlobalAvgPool(in.id), in.channels, 4,
                          {.kernel = 1, .bias = true});
    s = b_.Conv2d(path + ".up", b_.Relu(s), 4, in.channels, {.kernel = 1, .bias = true});
    const ValueId gate = b_.Call("aten::sigmoid", "", {{"self", s}});
    Push(b_.Call("aten::mul", "Tensor", {{"self", in.id}, {"other", gate}}), in.channels);
  }

  void PaddedShortcut() {
    const Item in = Any();
    if (in.channels > 24) return Activate();
    const int64_t left = static_cast<int64_t>(rng_.Index(5)), right = 4 - left;
    const ValueId wide = b_.Call(
        "aten::constant_pad_nd", "",
        {{"self", in.id}, {"pad", c10::IValue(std::vector<int64_t>{0, 0, 0, 0, left, right})}});
    const ValueId branch =
        b_.Conv2d(Path("wide"), in.id, in.channels, in.channels + 4, {.padding = 1});
    Push(b_.Add(branch, wide), in.channels + 4);
  }

  void Shuffle() {  // a reshape that splits the channels: pinned, with a reason
    const Item in = Any();
    if (in.channels % 2 != 0) return Activate();
    const auto view = [&](ValueId v, std::vector<int64_t> size) {
      return b_.Call("aten::reshape", "", {{"self", v}, {"shape", c10::IValue(std::move(size))}});
    };
    const ValueId split = view(in.id, {-1, 2, in.channels / 2, 8, 8});
    const ValueId swapped =
        b_.Call("aten::transpose", "int",
                {{"self", split}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
    Push(view(swapped, {-1, in.channels, 8, 8}), in.channels);
  }

  void Step() {
    const double draw = rng_.Uniform();
    if (draw < 0.3) return Conv();
    if (draw < 0.4) return Grouped();
    if (draw < 0.5) {
      const Item in = Any();
      return Push(b_.BatchNorm2d(Path("bn"), in.id, in.channels), in.channels);
    }
    if (draw < 0.6) return Activate();
    if (draw < 0.72) return Merge();
    if (draw < 0.8) return Concat();
    if (draw < 0.87) return Gate();
    if (draw < 0.93) return PaddedShortcut();
    if (draw < 0.95) return Shuffle();
    const Item in = Any();
    Push(b_.MaxPool2d(in.id, {.kernel = 3, .stride = 1, .padding = 1}), in.channels);
  }

  Rng rng_;
  Builder b_;
  std::vector<Item> values_;
  int layers_ = 0;
};

/// Number of random networks: a nightly run sets ESPALIER_FUZZ_NETS=10000.
int64_t FuzzCount() {
  const char* wanted = std::getenv("ESPALIER_FUZZ_NETS");
  return wanted ? std::atoll(wanted) : 300;
}

TEST(SpaceFuzzProperty, MaskedEqualsPrunedOnRandomNetworks) {
  const int64_t count = FuzzCount();
  int64_t cut = 0, sensitive = 0;
  for (int64_t seed = 0; seed < count; ++seed) {
    SCOPED_TRACE(Str("seed ", seed));
    const Network net = RandomNetwork(static_cast<uint64_t>(seed)).Make();
    const Space space = BuildSpace(net, {.decouple_residuals = seed % 3 == 0});
    if (space.groups().empty()) continue;
    const Selection selection = RandomSelection(space, static_cast<uint64_t>(seed));
    const Plan plan = MakePlan(space, selection);
    const Certificate c = Certify(space, selection, plan, Cut(space.network(), plan));
    ASSERT_LE(c.max_rel_error_f64, 1e-10) << c.failure;
    ASSERT_LE(c.max_rel_error, 1e-4) << c.failure;  // float32 over up to 30 layers
    ASSERT_TRUE(c.invariance_exact);
    ++cut;
    sensitive += c.control >= 1e-2;
  }
  EXPECT_GT(cut, count * 8 / 10);      // most networks have something to cut
  EXPECT_GT(sensitive, cut * 7 / 10);  // and most cuts change the output
}

TEST(CutAlgebraProperty, EmptyCutChangesNothing) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Space space = BuildSpace(RandomNetwork(seed).Make());
    const Plan plan = MakePlan(space, KeepAll(space));
    EXPECT_TRUE(plan.kept.empty());
    EXPECT_TRUE(plan.edits.empty());
    EXPECT_EQ(Cut(space.network(), plan).WeightsHash(), space.network().WeightsHash());
  }
}

TEST(CutAlgebraProperty, CuttingTwiceEqualsCuttingOnce) {
  // Pruning I, re-tracing, then pruning J (renumbered) gives the weights of pruning both at once.
  for (const bool decouple : {false, true}) {
    const Network net = BuildModel("resnet20");
    const Space space = BuildSpace(net, {.decouple_residuals = decouple});
    const Selection both = RandomSelection(space, 5);
    Selection first = both;
    Rng rng(9);
    for (size_t g = 0; g < first.size(); ++g)  // the first cut keeps everything of `both`, and more
      for (int64_t u = 0; u < space.groups()[g].units; ++u)
        if (std::count(both[g].begin(), both[g].end(), u) == 0 && rng.Uniform() < 0.5)
          first[g].insert(std::upper_bound(first[g].begin(), first[g].end(), u), u);
    const Network once = Cut(space.network(), MakePlan(space, first));
    const Space again = BuildSpace(once);  // already decoupled: the scatter stays
    ASSERT_EQ(again.groups().size(), space.groups().size());
    Selection second;
    for (size_t g = 0; g < first.size(); ++g) {
      ASSERT_EQ(again.groups()[g].units, static_cast<int64_t>(first[g].size()));
      second.emplace_back();
      for (size_t i = 0; i < first[g].size(); ++i)
        if (std::count(both[g].begin(), both[g].end(), first[g][i]))
          second[g].push_back(static_cast<int64_t>(i));
    }
    const Network twice = Cut(once, MakePlan(again, second));
    const Network direct = Cut(space.network(), MakePlan(space, both));
    EXPECT_EQ(twice.WeightsHash(), direct.WeightsHash());
  }
}

TEST(CutAlgebraProperty, PartitionEveryRootCoordinateIsInOneGroupOrPinned) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    const Space space = BuildSpace(RandomNetwork(seed).Make());
    std::map<std::pair<std::string, int64_t>, int64_t> covered;
    for (const Group& group : space.groups())
      for (const Member& member : group.members) {
        std::set<int64_t> distinct(member.indices.begin(), member.indices.end());
        EXPECT_EQ(distinct.size(), member.indices.size());
        if (member.axis == 0 && member.role == MemberRole::kProducer)
          covered[{member.parameter, 0}] += static_cast<int64_t>(distinct.size());
      }
    for (const Pin& pin : space.pins()) covered[{pin.parameter, pin.axis}] += pin.count;
    for (const Op& op : space.network().graph.ops) {
      if (op.target() != "aten::conv2d" && op.target() != "aten::linear") continue;
      const ValueId weight = op.ValueArg("weight");
      const std::string& name = space.network().graph.values[static_cast<size_t>(weight)].target;
      const Tensor& tensor = space.network().store.Get(name);
      if (op.target() == "aten::conv2d" && tensor.size(1) == 1) continue;  // depthwise: no root
      EXPECT_EQ((covered[{name, 0}]), tensor.size(0)) << name;
    }
  }
}

TEST(CutAlgebraProperty, CutNetworksTrainAndKeepDistinctStorages) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Space space = BuildSpace(RandomNetwork(seed).Make());
    Network cut = Cut(space.network(), MakePlan(space, RandomSelection(space, seed)));
    EXPECT_EQ(cut.store.CanonicalNames(), space.network().store.CanonicalNames());
    cut.store.SetRequiresGrad(true);
    const Executor executor(cut.graph);
    executor.Run(executor.Bind(cut.store), {at::randn({4, 3, 8, 8})}, {.mode = Mode::kTrain})
        .front()
        .pow(2)
        .sum()
        .backward();
    for (const std::string& name : cut.store.CanonicalNames()) {
      const Tensor& gradient = cut.store.Get(name).grad();
      EXPECT_TRUE(!gradient.defined() || at::isfinite(gradient).all().item<bool>()) << name;
    }
    EXPECT_TRUE(cut.store.Get("head.weight").grad().defined());
  }
}

TEST(CutAlgebraUnit, FrozenAndTrainableNetworksGiveTheSameGroups) {
  Network net = BuildModel("resnet20");
  const Space frozen = BuildSpace(net);
  net.store.SetRequiresGrad(true);
  const Space trainable = BuildSpace(net);
  ASSERT_EQ(frozen.groups().size(), trainable.groups().size());
  for (size_t g = 0; g < frozen.groups().size(); ++g) {
    EXPECT_EQ(frozen.groups()[g].name, trainable.groups()[g].name);
    EXPECT_EQ(frozen.groups()[g].members.size(), trainable.groups()[g].members.size());
  }
}

}  // namespace
}  // namespace espalier
