#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "env/graph/builder.h"
#include "search/strategy.h"

namespace espalier {

/// A small residual network, made-up images and a budget: everything a strategy needs, in
/// milliseconds.
class TinyEnvironment {
 public:
  explicit TinyEnvironment(const BudgetConfig& budget = HalfMacs(), bool grouped = false)
      : network_(grouped ? MakeGrouped() : MakeResidual()),
        space_(BuildSpace(network_, {.decouple_residuals = true, .exclude = {}})),
        cost_(space_),
        budget_(cost_, budget),
        splits_(MakeSplits()) {}
  TinyEnvironment(const TinyEnvironment&) = delete;
  TinyEnvironment& operator=(const TinyEnvironment&) = delete;

  Environment Get() const {
    return {.space = space_, .cost = cost_, .budget = budget_, .splits = &splits_};
  }
  const Network& network() const { return space_.network(); }
  const Budget& budget() const { return budget_; }

  static BudgetConfig HalfMacs() {
    BudgetConfig config;
    config.macs = Quantity{0.5, true};
    config.convention = "autobot";
    return config;
  }

 private:
  static Network MakeResidual() {
    Builder b("tiny_resnet", 3);
    ValueId x = b.Input("x", {2, 3, 8, 8});
    x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 8, {.padding = 1}), 8));
    for (const std::string block : {"b1", "b2"}) {
      ValueId y = b.Conv2d(block + ".conv1", x, 8, 12, {.padding = 1});
      y = b.Relu(b.BatchNorm2d(block + ".bn1", y, 12));
      y = b.BatchNorm2d(block + ".bn2", b.Conv2d(block + ".conv2", y, 12, 8, {.padding = 1}), 8);
      x = b.Relu(b.Add(x, y));
    }
    return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 8, 3)});
  }
  static Network MakeGrouped() {
    Builder b("tiny_grouped", 3);
    ValueId x = b.Input("x", {2, 3, 8, 8});
    x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 16, {.padding = 1}), 16));
    x = b.Relu(b.Conv2d("grouped", x, 16, 24, {.padding = 1, .groups = 4}));
    x = b.Relu(b.Conv2d("last", x, 24, 12, {.padding = 1}));
    return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 12, 3)});
  }
  /// Class c is brightest in colour c: learnable, so that losses mean something.
  static ImageSet MakeImages(int64_t count, uint64_t seed) {
    Rng rng(seed, 0, "tiny images");
    ImageSet set{at::empty({count, 3, 8, 8}, at::kByte), at::empty({count}, at::kLong)};
    auto* pixel = set.images.mutable_data_ptr<uint8_t>();
    auto* label = set.labels.mutable_data_ptr<int64_t>();
    for (int64_t image = 0; image < count; ++image) {
      label[image] = static_cast<int64_t>(rng.Index(3));
      for (int64_t colour = 0; colour < 3; ++colour) {
        for (int64_t i = 0; i < 64; ++i) {
          *pixel++ = static_cast<uint8_t>(rng.Index(160) + (colour == label[image] ? 90 : 0));
        }
      }
    }
    return set;
  }
  static Splits MakeSplits() {
    DataConfig config;
    config.name = "cifar10";
    config.mean = {0.5, 0.5, 0.5};
    config.std = {0.25, 0.25, 0.25};
    return Splits(config, MakeImages(160, 1), MakeImages(32, 2), MakeImages(32, 3));
  }

  const Network network_;
  const Space space_;
  const CostModel cost_;
  const Budget budget_;
  const Splits splits_;
};

/// A folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "espalier-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace espalier
