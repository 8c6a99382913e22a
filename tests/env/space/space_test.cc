#include "env/space/space.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/models.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "tests/env/space/random_selection.h"

namespace espalier {
namespace {

int64_t Units(const Space& space) { return space.total_units(); }

void ExpectExactCut(const Network& net, const SpaceOptions& options = {}, uint64_t seed = 1) {
  const Space space = BuildSpace(net, options);
  ASSERT_GT(space.groups().size(), 0u);
  const Selection selection = RandomHalf(space, seed);
  const Plan plan = MakePlan(space, selection);
  const Certificate certificate = Certify(space, selection, plan, Cut(space.network(), plan), seed);
  EXPECT_TRUE(certificate.passed) << certificate.failure << " rel " << certificate.max_rel_error
                                  << " f64 " << certificate.max_rel_error_f64;
  EXPECT_GE(certificate.control, 1e-2);
}

/// Networks whose only group is asked for by name; returns the member's kept indices after removing
/// the given units from it.
std::vector<int64_t> KeptAfterRemoving(const Space& space, const std::string& group,
                                       std::vector<int64_t> removed, const std::string& parameter,
                                       int64_t axis) {
  Selection selection = KeepAll(space);
  const int32_t index = space.FindGroup(group);
  EXPECT_GE(index, 0) << group;
  auto& kept = selection[static_cast<size_t>(index)];
  std::erase_if(kept, [&](int64_t u) { return std::count(removed.begin(), removed.end(), u) > 0; });
  const Plan plan = MakePlan(space, selection);
  for (const KeptAxis& cut : plan.kept.at(parameter))
    if (cut.axis == axis) return cut.kept.front();
  return {};
}

std::vector<int64_t> Complement(int64_t size, std::vector<int64_t> removed) {
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < size; ++i)
    if (std::count(removed.begin(), removed.end(), i) == 0) kept.push_back(i);
  return kept;
}

TEST(SpaceUnit, FlattenExpandsChannelsIntoFeatures) {
  // conv 3->8, flatten 4x4, linear 128->10: removing {2, 5} removes columns 32..47 and 80..95.
  Builder b("flat");
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 8, {.padding = 1});
  const Network net = b.Finish({b.Linear("fc", b.Flatten(b.Relu(x)), 128, 10)});
  const Space space = BuildSpace(net);
  std::vector<int64_t> gone;
  for (int64_t i = 0; i < 16; ++i) gone.insert(gone.end(), {32 + i, 80 + i});
  EXPECT_EQ(KeptAfterRemoving(space, "conv", {2, 5}, "fc.weight", 1), Complement(128, gone));
  ExpectExactCut(net);
}

TEST(SpaceUnit, ConcatAddsOffsets) {
  // a(4), b(6), c(5) -> conv: removing b {1, 5} removes consumer columns {5, 9}.
  Builder b("cat");
  const ValueId x = b.Input("x", {2, 3, 4, 4});
  const ValueId joined =
      b.Cat({b.Conv2d("a", x, 3, 4, {.kernel = 1}), b.Conv2d("b", x, 3, 6, {.kernel = 1}),
             b.Conv2d("c", x, 3, 5, {.kernel = 1})});
  const Network net = b.Finish({b.Conv2d("head", joined, 15, 2, {.kernel = 1})});
  const Space space = BuildSpace(net);
  EXPECT_EQ(space.groups().size(), 3u);
  EXPECT_EQ(KeptAfterRemoving(space, "b", {1, 5}, "head.weight", 1), Complement(15, {5, 9}));
  ExpectExactCut(net);
}

TEST(SpaceUnit, PaddedShortcutTiesShiftedChannels) {
  // Stride-2 slice padded (8, 8) from 16 to 32 channels, added to a 32-channel conv: conv output
  // j in [8, 24) ties with stem channel j - 8. Removing stem {0, 3} and phantoms {1, 30} leaves
  // width 28 with pads (7, 7).
  Builder b("optionA");
  const ValueId stem = b.Conv2d("stem", b.Input("x", {2, 3, 8, 8}), 3, 16, {.padding = 1});
  const auto slice = [&](ValueId v, int64_t dim) {
    return b.Call("aten::slice", "Tensor",
                  {{"self", v}, {"dim", c10::IValue(dim)}, {"step", c10::IValue(2)}});
  };
  const ValueId shortcut = b.Call("aten::constant_pad_nd", "",
                                  {{"self", slice(slice(stem, 2), 3)},
                                   {"pad", c10::IValue(std::vector<int64_t>{0, 0, 0, 0, 8, 8})}});
  const ValueId branch = b.Conv2d("branch", stem, 16, 32, {.stride = 2, .padding = 1});
  const Network net = b.Finish(
      {b.Linear("fc", b.Flatten(b.GlobalAvgPool(b.Relu(b.Add(branch, shortcut)))), 32, 4)});
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 2u);  // 16 through units, 16 that only the branch makes
  EXPECT_EQ(space.groups()[0].units, 16);
  EXPECT_EQ(space.groups()[1].units, 16);
  Selection selection = KeepAll(space);
  selection[0] = Complement(16, {0, 3});
  selection[1] = Complement(16, {1, 14});  // phantom channels 1 and 30 of the wide side
  const Plan plan = MakePlan(space, selection);
  EXPECT_EQ(plan.kept.at("branch.weight")[0].kept[0], Complement(32, {1, 8, 11, 30}));
  ASSERT_EQ(plan.edits.size(), 1u);
  EXPECT_EQ(plan.edits[0].to, (std::vector<int64_t>{0, 0, 0, 0, 7, 7}));
  ExpectExactCut(net);
}

TEST(SpaceUnit, DepthwiseFollowsItsInputAndEditsGroups) {
  // Depthwise with multiplier 2 on 4 channels: removing output 5 removes input 2 and output 4 too.
  Builder b("dw");
  const ValueId wide = b.Conv2d("expand", b.Input("x", {2, 3, 4, 4}), 3, 4, {.kernel = 1});
  const ValueId dw = b.Conv2d("dw", wide, 4, 8, {.padding = 1, .groups = 4});
  const Network net = b.Finish({b.Conv2d("project", dw, 8, 2, {.kernel = 1})});
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 1u);
  EXPECT_EQ(KeptAfterRemoving(space, "expand", {2}, "dw.weight", 0), Complement(8, {4, 5}));
  EXPECT_EQ(KeptAfterRemoving(space, "expand", {2}, "project.weight", 1), Complement(8, {4, 5}));
  ExpectExactCut(net);
}

TEST(SpaceUnit, GroupedConvolutionKeepsEqualCountsPerBlock) {
  Builder b("grouped");
  const ValueId in = b.Conv2d("in", b.Input("x", {2, 3, 4, 4}), 3, 8, {.kernel = 1});
  const ValueId mid = b.Relu(
      b.BatchNorm2d("bn", b.Conv2d("mid", b.Relu(in), 8, 12, {.padding = 1, .groups = 4}), 12));
  const Network net = b.Finish({b.Conv2d("out", mid, 12, 2, {.kernel = 1})});
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 2u);
  EXPECT_EQ(space.groups()[0].blocks, 4);
  Selection unequal = KeepAll(space);
  unequal[0] = Complement(8, {0});
  EXPECT_THROW(MakePlan(space, unequal), Error);
  for (uint64_t seed = 0; seed < 5; ++seed) ExpectExactCut(net, {}, seed);
}

TEST(SpaceUnit, TiedWeightsStayOneTensor) {
  Builder b("tied");
  const ValueId x = b.Input("x", {2, 4});
  const ValueId w = b.Parameter("w", at::randn({4, 4}));
  const auto linear = [&](ValueId v, const char* path) {
    return b.Call("aten::linear", "", {{"input", v}, {"weight", w}}, path);
  };
  const Network net = b.Finish({b.Linear("fc", linear(linear(x, "one"), "two"), 4, 3)});
  // Rows of the first use meet columns of the second: the input x is read through the same columns,
  // so nothing can go.
  const Space space = BuildSpace(net);
  for (const Group& group : space.groups()) EXPECT_NE(group.name, "w");
}

TEST(SpaceUnit, OutputsAndUnknownOperatorsArePinnedWithReasons) {
  Builder b("pins");
  const ValueId conv = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 8, {.kernel = 1});
  const ValueId odd = b.Call("aten::cumsum", "", {{"self", conv}, {"dim", c10::IValue(1)}}, "odd");
  const Network net = b.Finish({b.Conv2d("head", odd, 8, 2, {.kernel = 1})});
  const Space space = BuildSpace(net);
  EXPECT_TRUE(space.groups().empty());
  ASSERT_EQ(space.pins().size(), 2u);
  EXPECT_EQ(space.pins()[0].parameter, "conv.weight");
  EXPECT_EQ(space.pins()[0].count, 8);
  EXPECT_NE(space.pins()[0].reason.find("aten::cumsum at 'odd'"), std::string::npos);
  EXPECT_EQ(space.pins()[1].reason, "network output");
}

TEST(SpaceUnit, ExcludedLayersArePinnedAndUnknownPatternsRefused) {
  const Network net = BuildModel("resnet20");
  const Space all = BuildSpace(net);
  const Space less = BuildSpace(net, {.exclude = {"layer1.*.conv1"}});
  EXPECT_EQ(Units(all) - Units(less), 3 * 16);
  EXPECT_THROW(BuildSpace(net, {.exclude = {"layer9.*"}}), Error);
}

TEST(SpaceUnit, DecouplingGivesEveryBranchItsOwnGroup) {
  // ResNet-20 has 9 blocks: 18 groups of 3 * 2 * (16 + 32 + 64) units, the trunk is pinned.
  const Network net = BuildModel("resnet20");
  const Space space = BuildSpace(net, {.decouple_residuals = true});
  EXPECT_EQ(space.groups().size(), 18u);
  EXPECT_EQ(Units(space), 6 * (16 + 32 + 64));
  const Tensor x = at::randn({2, 3, 32, 32});
  EXPECT_TRUE(at::equal(Forward(net, x), Forward(space.network(), x)));
}

TEST(PlanUnit, JsonRoundTripKeepsEverything) {
  const Space space = BuildSpace(BuildModel("resnet20"), {.decouple_residuals = true});
  const Plan plan = MakePlan(space, RandomHalf(space, 4));
  const Plan again = PlanFromJson(ToJson(plan));
  EXPECT_EQ(ToJson(again), ToJson(plan));
  const ParameterStore a = SliceStore(space.network().store, plan);
  const ParameterStore b = SliceStore(space.network().store, again);
  for (const std::string& name : a.CanonicalNames())
    EXPECT_TRUE(at::equal(a.Get(name), b.Get(name)));
}

TEST(PlanUnit, DamagedJsonNamesThePlace) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  nlohmann::json json = ToJson(MakePlan(space, RandomHalf(space, 4)));
  const auto expect_error = [](const nlohmann::json& bad, const std::string& place) {
    try {
      PlanFromJson(bad);
      FAIL() << place;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kModel);
      EXPECT_NE(error.message().find(place), std::string::npos) << error.message();
    }
  };
  auto bad = json;
  bad["version"] = 2;
  expect_error(bad, "version 1");
  bad = json;
  bad["kept"]["conv1.weight"]["0"] = {3, 1};
  expect_error(bad, ".kept.conv1.weight.0");
  bad = json;
  bad["kept"]["conv1.weight"]["7x"] = {1};
  expect_error(bad, ".kept.conv1.weight.7x");
  bad = json;  // axis 0 a second time
  bad["kept"]["conv1.weight"]["00"] = {0};
  expect_error(bad, ".kept.conv1.weight.00");
  bad = json;
  bad["kept"]["conv1.weight"]["0"] = {{"per", 0}, {"kept", {{0}, {1}}}};
  expect_error(bad, ".kept.conv1.weight.0: axis 0 cannot");
  bad = json;
  bad["kept"]["conv1.weight"]["0"] = {uint64_t{0}, UINT64_MAX};
  expect_error(bad, ".kept.conv1.weight.0");
  bad = json;
  bad["groups"][0]["units"] = 1;
  expect_error(bad, ".groups[0]: it keeps unit");
  for (const char* list : {"groups", "edits"}) {
    bad = json;
    bad.erase(list);
    expect_error(bad, list);
    bad[list] = nullptr;
    expect_error(bad, Str(".", list, ": expected a list"));
  }
}

TEST(PlanUnit, PlanOfAnotherNetworkIsRefused) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  const Plan plan = MakePlan(space, RandomHalf(space, 4));
  EXPECT_THROW(SliceStore(BuildModel("vgg16_bn_cifar").store, plan), Error);
}

TEST(CertificateUnit, FailsWhenTheCutIsWrong) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  const Selection selection = RandomHalf(space, 4);
  const Plan plan = MakePlan(space, selection);
  Network pruned = Cut(space.network(), plan);
  pruned.store.Set("layer2.0.bn1.weight", pruned.store.Get("layer2.0.bn1.weight") * 1.5);
  const Certificate certificate = Certify(space, selection, plan, pruned);
  EXPECT_FALSE(certificate.passed);
  EXPECT_NE(certificate.failure.find("layer2.0.bn1"), std::string::npos) << certificate.failure;
}

TEST(CertificateUnit, ANetworkThatDrawsNoiseDrawsTheSameMaskedAndCut) {
  Builder b("variational", 1);
  const ValueId x = b.Relu(b.Conv2d("encoder", b.Input("x", {2, 3, 6, 6}), 3, 8));
  const ValueId latent = b.Conv2d("latent", x, 8, 4);
  const ValueId noise = b.Call("aten::randn_like", "", {{"self", latent}});
  const ValueId drawn = b.Call("aten::add", "Tensor", {{"self", latent}, {"other", noise}});
  const ValueId y = b.Relu(b.Conv2d("decoder", drawn, 4, 8, {.kernel = 1}));
  const Network net = b.Finish({b.Conv2d("image", y, 8, 3, {.kernel = 1})});
  ExpectExactCut(net);
}

TEST(CertificateUnit, FailsWhenTheCutGivesNoNumbers) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  const Selection selection = RandomHalf(space, 1);
  const Plan plan = MakePlan(space, selection);
  Network pruned = Cut(space.network(), plan);
  pruned.store.Get("linear.bias").fill_(std::numeric_limits<float>::quiet_NaN());
  const Certificate certificate = Certify(space, selection, plan, pruned);
  EXPECT_FALSE(certificate.passed);
  EXPECT_GT(certificate.max_rel_error, 1);
}

/// One unit of the group goes.
Selection AllBut(const Space& space, const std::string& group, int64_t unit) {
  Selection selection = KeepAll(space);
  std::erase(selection[static_cast<size_t>(space.FindGroup(group))], unit);
  return selection;
}

TEST(CertificateUnit, UnitsThatDoNotMatterArePutToTheProofWithNoise) {
  Builder b("dead unit", 1);
  const ValueId x = b.Conv2d("a", b.Input("x", {2, 3, 6, 6}), 3, 8, {.padding = 1});
  Network net = b.Finish({b.Conv2d("b", b.Relu(x), 8, 4, {.padding = 1})});
  for (const char* name : {"a.weight", "b.weight"}) {  // as a sparsity training leaves it
    const Tensor weight = net.store.Get(name).clone();
    weight.select(name[0] == 'a' ? 0 : 1, 5).zero_();
    net.store.Set(name, weight);
  }
  const Space space = BuildSpace(net);
  const Selection selection = AllBut(space, "a", 5);
  const Plan plan = MakePlan(space, selection);
  const Network cut = Cut(net, plan);
  const Certificate certificate = Certify(space, selection, plan, cut);
  EXPECT_TRUE(certificate.passed) << certificate.failure;
  EXPECT_GT(certificate.noise, 0);
  EXPECT_GE(certificate.control, 1e-2);
  EXPECT_EQ(CertificateFromJson(ToJson(certificate)).noise, certificate.noise);

  const Selection other = AllBut(space, "a", 2);  // one that matters
  const Plan plan_of_other = MakePlan(space, other);
  EXPECT_EQ(Certify(space, other, plan_of_other, Cut(net, plan_of_other)).noise, 0);
  EXPECT_FALSE(Certify(space, other, plan_of_other, cut).passed);
}

TEST(CertificateUnit, OneOfManyUnitsOfADeepNetworkCanGo) {
  const Network net = BuildModel("vgg16_bn_cifar");
  const Space space = BuildSpace(net);
  Selection selection = KeepAll(space);
  selection.front().pop_back();
  const Plan plan = MakePlan(space, selection);
  const Certificate certificate = Certify(space, selection, plan, Cut(net, plan));
  EXPECT_TRUE(certificate.passed) << certificate.failure << " control " << certificate.control;
}

TEST(CertificateUnit, FailsWhereNothingReachesTheOutput) {
  Builder b("nothing", 1);
  const ValueId x = b.Conv2d("a", b.Input("x", {2, 3, 6, 6}), 3, 8, {.padding = 1});
  const ValueId none = b.Call("aten::mul", "Scalar", {{"self", x}, {"other", c10::IValue(0.0)}});
  const Network net = b.Finish({b.Conv2d("b", none, 8, 4, {.padding = 1, .bias = true})});
  const Space space = BuildSpace(net);
  const Selection selection = AllBut(space, "a", 5);
  const Plan plan = MakePlan(space, selection);
  const Certificate certificate = Certify(space, selection, plan, Cut(net, plan));
  EXPECT_FALSE(certificate.passed);
  EXPECT_NE(certificate.failure.find("never reaches an output"), std::string::npos);
}

TEST(CertificateUnit, TakesAccountOfWhatFloat32MakesOfLargeNumbers) {
  Builder b("large", 1);
  ValueId x = b.Relu(b.Linear("a", b.Input("x", {2, 12}), 12, 32));
  x = b.Linear("b", x, 32, 6);
  x = b.Call("aten::sin", "", {{"self", x}});
  Network net = b.Finish({b.Linear("c", x, 6, 4)});
  net.store.Set("b.weight", net.store.Get("b.weight") * 1e4);
  const Space space = BuildSpace(net);
  const Selection selection = RandomHalf(space, 1);
  const Plan plan = MakePlan(space, selection);
  Network pruned = Cut(space.network(), plan);
  const Certificate certificate = Certify(space, selection, plan, pruned);
  EXPECT_TRUE(certificate.passed) << certificate.failure;
  EXPECT_GT(certificate.max_rel_error, 1e-5);
  EXPECT_GT(certificate.tolerance, certificate.max_rel_error);
  pruned.store.Set("c.weight", pruned.store.Get("c.weight") * 1.5);
  EXPECT_FALSE(Certify(space, selection, plan, pruned).passed);
}

TEST(CertificateProperty, RandomCutsOfEveryCifarNetworkAreExact) {
  for (const char* name : {"resnet20", "densenet40", "vgg16_bn_cifar"}) {
    SCOPED_TRACE(name);
    ExpectExactCut(BuildModel(name));
  }
  ExpectExactCut(BuildModel("resnet20"), {.decouple_residuals = true});
  ExpectExactCut(BuildModel("resnet20", {.shortcut = "projection"}), {.decouple_residuals = true});
  ExpectExactCut(BuildModel("mobilenet_v2", {.input_size = 32}));
}

}  // namespace
}  // namespace espalier
