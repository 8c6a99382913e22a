#include "env/base/call_text.h"

#include <gtest/gtest.h>

#include "env/base/error.h"

namespace espalier {
namespace {

TEST(CallTextUnit, NamesAndOptions) {
  EXPECT_EQ(ParseCall("strategy", " uniform ").name, "uniform");
  EXPECT_EQ(ParseCall("strategy", "uniform()").options, "");
  const CallText call =
      ParseCall("strategy",
                "evolution(criterion=taylor(mode=vector, reduce=max), samples = 5e2, race=false)");
  EXPECT_EQ(call.name, "evolution");
  EXPECT_EQ(call.options,
            "criterion = \"taylor(mode=vector, reduce=max)\"\nsamples = 5e2\nrace = false\n");
  EXPECT_TRUE(call.Has("samples"));
  EXPECT_FALSE(call.Has("mode"));
  EXPECT_EQ(ParseCall("x", "a(list=[1, 2], text='b, c')").options,
            "list = [1, 2]\ntext = 'b, c'\n");
}

TEST(CallTextUnit, WhatIsNoCallIsAConfigErrorThatShowsTheText) {
  for (const std::string bad :
       {"a(b=1", "a(b)", "a(=1)", "a(b=1))", "a(b='1)", "a(b=1,)", "a(b=[1)", "a(b=1\nc=2)"}) {
    SCOPED_TRACE(bad);
    try {
      ParseCall("strategy", bad);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find("strategy '" + bad), std::string::npos) << error.message();
    }
  }
}

}  // namespace
}  // namespace espalier
