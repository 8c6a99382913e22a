#include "env/latency/latency_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/base/rng.h"
#include "env/latency/latency.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

using nlohmann::json;

std::filesystem::path OnlyFile(const TempFolder& folder) {
  std::filesystem::path found;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_TRUE(found.empty());
    found = entry.path();
  }
  return found;
}

TEST(LatencyCacheUnit, IsReadBackByTheSameDeviceOnly) {
  const TempFolder folder;
  const json device = {{"processor", "a"}, {"threads", 2}};
  LatencyCache cache(folder.path(), device);
  cache.Put("conv [1, 3]", 0.123456789012345);
  cache.Save();
  EXPECT_EQ(LatencyCache(folder.path(), device).Find("conv [1, 3]"), 0.123456789012345);
  EXPECT_FALSE(LatencyCache(folder.path(), device).Find("conv"));
  EXPECT_EQ(LatencyCache(folder.path(), {{"processor", "b"}, {"threads", 2}}).size(), 0u);
  // Even under the other's name it is not taken.
  const json elsewhere = {{"processor", "b"}};
  LatencyCache other(elsewhere);
  EXPECT_FALSE(other.Read(OnlyFile(folder)));
  EXPECT_EQ(other.size(), 0u);
  EXPECT_FALSE(other.Read(folder / "absent.json"));
}

TEST(LatencyCacheUnit, TwoThatWriteLoseNothing) {
  const TempFolder folder;
  LatencyCache first(folder.path(), json::object()), second(folder.path(), json::object());
  first.Put("a", 1);
  second.Put("b", 2);
  first.Save();
  second.Save();
  const LatencyCache both(folder.path(), json::object());
  EXPECT_EQ(both.Find("a"), 1);
  EXPECT_EQ(both.Find("b"), 2);
}

TEST(LatencyCacheUnit, WhatIsDamagedIsNotUsed) {
  SetLogLevel(LogLevel::kError);  // a warning for each
  const TempFolder folder;
  const json device = {{"processor", "a"}};
  const json good = {{"format", "espalier-latency"},
                     {"version", 1},
                     {"device", device},
                     {"ms", {{"a", 1.5}, {"b", 2}}}};
  const auto file = folder / "latency.json";
  const auto reads = [&](const std::string& text) {
    WriteFileAtomic(file, text);
    LatencyCache cache(device);
    const bool used = cache.Read(file);
    EXPECT_EQ(cache.size(), used ? 2u : 0u) << text.substr(0, 80);
    return used;
  };
  EXPECT_TRUE(reads(good.dump()));
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, json>>{{"format", "other"},
                                                 {"format", 3},
                                                 {"version", 2},
                                                 {"version", "1"},
                                                 {"version", {}},
                                                 {"device", json::array()},
                                                 {"ms", json::array({1})},
                                                 {"ms", 5},
                                                 {"ms", nullptr},
                                                 {"ms", {{"a", 1.5}, {"b", -1}}},
                                                 {"ms", {{"a", 0}, {"b", 1}}},
                                                 {"ms", {{"a", "fast"}, {"b", 1}}},
                                                 {"ms", {{"a", {1}}, {"b", 1}}}}) {
    json bad = good;
    bad[key] = value;
    EXPECT_FALSE(reads(bad.dump())) << bad;
    bad.erase(key);
    EXPECT_FALSE(reads(bad.dump())) << bad;
  }
  const std::string text = good.dump();
  for (size_t length = 0; length < text.size(); length += 3)
    EXPECT_FALSE(reads(text.substr(0, length)));
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {  // whatever is in it: used as a whole, or not at all
    std::string other = text;
    for (uint64_t flips = 1 + rng.Index(3); flips > 0; --flips)
      other[rng.Index(other.size())] = static_cast<char>(rng.Index(256));
    WriteFileAtomic(file, other);
    LatencyCache cache(device);
    const bool used = cache.Read(file);
    EXPECT_EQ(used, cache.size() > 0) << other;
    for (const char* key : {"a", "b"}) {
      const double ms = cache.Find(key).value_or(1);
      EXPECT_TRUE(std::isfinite(ms) && ms > 0);
    }
  }
  EXPECT_FALSE(reads("[]"));
  EXPECT_FALSE(reads("null"));
  EXPECT_FALSE(reads(std::string(100000, '[')));
  EXPECT_FALSE(reads(std::string("\0\xff\xfe", 3)));
  EXPECT_FALSE(reads(R"({"format": "espalier-latency", "version": 1, "device": {"processor": "a"},)"
                     R"( "ms": {"a": 1e999, "b": 1}})"));
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  LatencyCache cache(device);
  EXPECT_FALSE(cache.Read(file));
  SetLogLevel(LogLevel::kInfo);
}

TEST(DeviceIdentityUnit, DiffersWhereTimesDiffer) {
  const LatencyConfig base;
  const auto of = [](LatencyConfig config) { return DeviceIdentity(config, at::kCPU); };
  LatencyConfig batch = base, threads = base, precision = base, repeats = base;
  batch.batch = 8;
  threads.threads = 7;
  precision.precision = "bf16";
  repeats.repeats = 99;
  EXPECT_NE(of(base), of(batch));
  EXPECT_NE(of(base), of(threads));
  EXPECT_NE(of(base), of(precision));
  EXPECT_EQ(of(base), of(repeats));
  EXPECT_NE(of(base), DeviceIdentity(base, at::Device(at::kCUDA, 0)));
  for (const char* key : {"processor", "cores", "libtorch", "capability"})
    EXPECT_TRUE(of(base).contains(key)) << key;
}

}  // namespace
}  // namespace espalier
