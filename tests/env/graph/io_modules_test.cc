#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/graph/pt2_modules.h"

namespace espalier::pt2 {
namespace {

constexpr const char* kUnknown = "torch.nn.modules.module.Module";

TEST(Pt2ModulesUnit, ParsesPathsTypesAndRepeatedCalls) {
  const auto stack = ParseModuleStack("L__self__,,a.Net;nonsense");
  ASSERT_EQ(stack.size(), 1u);  // an entry that is not three parts is left out
  EXPECT_EQ(stack[0].path, "");
  const auto good = ParseModuleStack("L__self__,,a.Net;L__self__fc@1,fc@1,b.F[(1, 2)]");
  ASSERT_EQ(good.size(), 2u);
  EXPECT_EQ(good[1].path, "fc");
  EXPECT_EQ(good[1].type, "b.F[(1, 2)]");
}

TEST(Pt2ModulesUnit, NumbersTheCallsOfModulesThatAreEnteredAgain) {
  ModuleStackWriter writer({}, {{"", "Net"}});
  EXPECT_EQ(writer.Next("relu"), Str("L__self__,,Net;L__self__relu,relu,", kUnknown));
  EXPECT_EQ(writer.Next("relu"), Str("L__self__,,Net;L__self__relu,relu,", kUnknown));
  EXPECT_EQ(writer.Next(""), "L__self__,,Net");
  EXPECT_EQ(writer.Next("relu"), Str("L__self__,,Net;L__self__relu@1,relu,", kUnknown));
}

TEST(Pt2ModulesUnit, AContainerIsNotNamedAfterAFunctionCalledInIt) {
  ModuleStackWriter writer({{"block.conv", "Conv2d"}, {"block", "ReLU"}}, {});
  const std::string inside = writer.Next("block.conv");
  EXPECT_THAT(inside, testing::EndsWith("L__self__block.conv,block.conv,Conv2d"));
  EXPECT_TRUE(inside.starts_with(writer.Next("block")));
}

}  // namespace
}  // namespace espalier::pt2
