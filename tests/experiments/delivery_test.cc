#include "experiments/delivery.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/io.h"
#include "experiments/error_text.h"
#include "experiments/run_folder.h"
#include "experiments/verify_delivery.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// A cut of the tiny residual network, ready to be delivered.
class DeliveryUnit : public testing::Test {
 protected:
  DeliveryUnit()
      : network_(TinyEnvironment().network()),
        space_(BuildSpace(network_)),
        cost_(space_),
        selection_(KeepAll(space_)) {
    for (auto& kept : selection_) kept.resize((kept.size() + 1) / 2);
    plan_ = MakePlan(space_, selection_);
  }

  Error FailureOf(const Network& cut) {
    try {
      CertifyOrThrow(temp_ / "out", space_, selection_, plan_, cut, 0);
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "a wrong cut was certified";
    return Error(ErrorKind::kInternal, "");
  }

  /// Writes the uncut network as an archive, and its cut as `espalier prune` would.
  fs::path Deliver(const std::string& name) {
    fs::create_directories(temp_ / name);
    WritePt2(temp_ / name / "source.pt2", network_);
    const ModelSource model =
        LoadModelSource(ParseModelWord((temp_ / name / "source.pt2").string()), 0);
    const Space space = BuildSpace(model.network);
    Plan plan = MakePlan(space, selection_);
    plan.source_sha256 = space.network().WeightsHash();
    const Network cut = Cut(space.network(), plan);
    const fs::path out = temp_ / name / "cut";
    const Certificate certificate = CertifyOrThrow(out, space, selection_, plan, cut, 0);
    WriteDelivery(out, {.network = cut,
                        .plan = plan,
                        .certificate = certificate,
                        .cost = CostTable(space_, cost_, selection_),
                        .source = SourceOf(model, 0, {}),
                        .normalisation = ""});
    return out;
  }

  static std::string FailedChecks(const VerifyReport& report) {
    std::string failed;
    for (const auto& check : report.checks)
      if (!check["passed"]) failed += check["name"].get<std::string>() + ';';
    return failed;
  }

  const TempFolder temp_;
  const Network network_;
  const Space space_;
  const CostModel cost_;
  Selection selection_;
  Plan plan_;
};

TEST_F(DeliveryUnit, AWrongCutIsReportedWithTheFirstNodeThatDiffersAndNotWritten) {
  Network wrong = Cut(network_, plan_);
  wrong.store = wrong.store.Clone();
  wrong.store.Get("b2.conv1.weight").mul_(1.5);
  const Error error = FailureOf(wrong);
  EXPECT_EQ(DescribeFailure(std::make_exception_ptr(error)).exit_code, 1);
  EXPECT_NE(error.message().find("at 'b2.conv1'"), std::string::npos) << error.message();
  EXPECT_NE(error.hint().find("failure.json"), std::string::npos);
  const auto report = ReadJson(temp_ / "out/failure.json");
  EXPECT_FALSE(report["passed"].get<bool>());
  EXPECT_NE(report["failure"].get<std::string>().find("b2.conv1"), std::string::npos);
  EXPECT_EQ(report["plan"]["format"], "espalier-plan");
  EXPECT_FALSE(fs::exists(temp_ / "out/model.pt2"));
}

TEST_F(DeliveryUnit, ACutThatDoesNotRunIsReportedToo) {
  Network wrong = Cut(network_, plan_);
  wrong.store.Set("b1.conv2.weight", network_.store.Get("b1.conv2.weight"));
  const Error error = FailureOf(wrong);
  EXPECT_EQ(error.kind(), ErrorKind::kInternal);
  EXPECT_NE(error.message().find("b1.conv2"), std::string::npos) << error.message();
}

TEST_F(DeliveryUnit, ASuccessRemovesTheReportOfAnEarlierFailure) {
  WriteFileAtomic(temp_ / "out/failure.json", "{}");
  EXPECT_TRUE(
      CertifyOrThrow(temp_ / "out", space_, selection_, plan_, Cut(network_, plan_), 0).passed);
  EXPECT_FALSE(fs::exists(temp_ / "out/failure.json"));
}

TEST_F(DeliveryUnit, ThePlanSaysWhereItsNumbersStandAndHowItsSpaceWasMade) {
  const auto plan = ReadJson(Deliver("a") / "plan.json");
  EXPECT_EQ(plan["source"]["sha256"], network_.WeightsHash());
  EXPECT_EQ(plan["space"]["decouple_residuals"], false);
  for (const auto& edit : plan["edits"]) EXPECT_TRUE(edit.contains("module"));
}

TEST_F(DeliveryUnit, VerifyHoldsWhereverTheFolderIs) {
  const fs::path out = Deliver("a");
  EXPECT_EQ(FailedChecks(VerifyDelivery(out, "")), "");
  fs::rename(out, temp_ / "moved");  // alone
  EXPECT_EQ(FailedChecks(VerifyDelivery(temp_ / "moved", "")), "");
  fs::rename(temp_ / "moved", out);
  fs::rename(temp_ / "a", temp_ / "b");  // with its source
  EXPECT_EQ(FailedChecks(VerifyDelivery(temp_ / "b/cut", "")), "");
  fs::rename(temp_ / "b/source.pt2", temp_ / "elsewhere.pt2");
  EXPECT_THROW(VerifyDelivery(temp_ / "b/cut", ""), Error);
  const std::string there = (temp_ / "elsewhere.pt2").string();
  EXPECT_EQ(FailedChecks(VerifyDelivery(temp_ / "b/cut", there)), "");
}

TEST_F(DeliveryUnit, VerifyNoticesEveryChangedFile) {
  for (const auto& name : DeliveredFiles()) {
    const fs::path out = Deliver(name);
    const std::string bytes = ReadFile(out / name);
    fs::remove(out / name);
    try {
      VerifyDelivery(out, "");
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIo);
      EXPECT_NE(error.message().find(name), std::string::npos) << error.message();
    }
    WriteFileAtomic(out / name, bytes + " ");
    try {  // a blank more: some readers refuse the file, the others compare its hash
      EXPECT_EQ(FailedChecks(VerifyDelivery(out, "")), "files as they were written;") << name;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(name), std::string::npos) << error.message();
    }
  }
}

TEST_F(DeliveryUnit, VerifyComparesWithTheRightSource) {
  const fs::path out = Deliver("a");
  Network other = network_;
  other.store = network_.store.Clone();
  other.store.Get("fc.bias").add_(1);
  WritePt2(temp_ / "other.pt2", other);
  const auto report = VerifyDelivery(out, (temp_ / "other.pt2").string());
  EXPECT_FALSE(report.passed);
  EXPECT_NE(FailedChecks(report).find("source file;"), std::string::npos) << FailedChecks(report);
}

TEST_F(DeliveryUnit, DamagedPlansAndCertificatesAreErrorsWithTheirName) {
  const fs::path out = Deliver("a");
  const auto expect = [&](const std::string& file, const std::string& bytes,
                          const std::string& text) {
    const std::string before = ReadFile(out / file);
    WriteFileAtomic(out / file, bytes);
    try {
      VerifyDelivery(out, "");
      ADD_FAILURE() << bytes;
    } catch (const Error& error) {
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.message();
      EXPECT_NE(error.message().find(text), std::string::npos) << error.message();
    }
    WriteFileAtomic(out / file, before);
  };
  expect("plan.json", "{", "plan.json");
  expect("certificate.json", "{}", "certificate");
  ordered_json certificate = ReadJson(out / "certificate.json");
  certificate["delivered"].erase("weights_sha256");
  expect("certificate.json", certificate.dump(), "weights_sha256");
  ordered_json plan = ReadJson(out / "plan.json");
  plan["groups"][0]["units"] = 7;
  expect("plan.json", plan.dump(), "has 7 units");
  plan = ReadJson(out / "plan.json");
  plan["groups"][0]["kept"] = {0, 99};
  expect("plan.json", plan.dump(), "keeps unit 99");
  plan = ReadJson(out / "plan.json");
  plan["groups"][0]["name"] = "nowhere";
  expect("plan.json", plan.dump(), "'nowhere'");
}

TEST(SelectionOfUnit, BlocksKeepEqualCounts) {
  const TinyEnvironment tiny(TinyEnvironment::HalfMacs(), /*grouped=*/true);
  const Space space = BuildSpace(tiny.network());
  Plan plan = MakePlan(space, KeepAll(space));
  EXPECT_EQ(SelectionOf(space, plan), KeepAll(space));
  for (auto& group : plan.groups)
    if (space.groups()[static_cast<size_t>(space.FindGroup(group.name))].blocks > 1) {
      group.kept.pop_back();
      EXPECT_THROW(SelectionOf(space, plan), Error);
      return;
    }
  FAIL() << "no group has blocks";
}

}  // namespace
}  // namespace espalier
