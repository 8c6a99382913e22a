// The tricks of hostile archives one by one; the fuzz tests mix them.

#include "env/graph/zip_file.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "env/base/files.h"
#include "env/graph/io.h"
#include "env/graph/torch_pickle.h"
#include "tests/env/graph/io_networks.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/temp_folder.h"

namespace espalier::fuzz {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// The error of opening and reading everything; "" when there is none.
std::string ErrorOf(const std::string& bytes) {
  const TempFolder folder;
  WriteFileAtomic(folder / "bad.zip", bytes);
  try {
    ZipFile zip(folder / "bad.zip");
    for (const std::string& name : zip.names()) {
      std::string content(zip.Size(name), '\0');
      zip.Read(name, content.data());
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_THAT(error.message(), HasSubstr("bad.zip'"));
    return error.message();
  }
  return "";
}

const std::vector<ZipEntry> kTwo = {{"root/a.txt", "first"},
                                    {"root/b/c.bin", std::string(300, 'x')}};

TEST(ZipUnit, ReadsStoredDeflatedAndZip64) {
  for (const bool deflate : {false, true}) {
    for (const bool zip64 : {false, true}) {
      const TempFolder folder;
      WriteFileAtomic(folder / "good.zip", PackZip(kTwo, {.deflate = deflate, .zip64 = zip64}));
      ZipFile zip(folder / "good.zip");
      EXPECT_THAT(zip.names(), ElementsAre("a.txt", "b/c.bin"));
      std::string content(zip.Size("b/c.bin"), '\0');
      zip.Read("b/c.bin", content.data());
      EXPECT_EQ(content, kTwo[1].bytes);
      EXPECT_THROW(zip.Size("c.bin"), Error);
    }
  }
}

TEST(ZipUnit, RefusesBombs) {
  EXPECT_LT(ZeroBomb(64).size(), 512u << 10);
  const std::vector<ZipEntry> bomb = {{"root/a", "a"}, {"root/zeros", ZeroBomb(64)}};
  EXPECT_THAT(ErrorOf(PackZip(bomb, {.value = 64 << 20, .bomb = 1})),
              HasSubstr("claims to unpack to"));
  // One that claims less than it gives stops there.
  EXPECT_THAT(ErrorOf(PackZip(bomb, {.value = 1000, .bomb = 1})),
              AllOf(HasSubstr("entry zeros"), HasSubstr("1000 bytes")));
  // The same bytes under several names.
  EXPECT_THAT(ErrorOf(PackZip({{"root/a", "x"}, {"root/b", "x"}}, {.field = "begin", .entry = 1})),
              HasSubstr("another name"));
}

TEST(ZipUnit, RefusesNamesThatLeadElsewhere) {
  for (const char* name : {"root/../etc/passwd", "/etc/passwd", "../x", "root//x", "root/./x",
                           "root\\..\\x", "other/x", "root/x\n", "x", ""})
    EXPECT_NE(ErrorOf(PackZip({{"root/a", "a"}, {name, "b"}})), "") << name;
  EXPECT_THAT(ErrorOf(PackZip({{"root/a", "a"}, {"root/a", "b"}})),
              AllOf(HasSubstr("entry a"), HasSubstr("twice")));
}

TEST(ZipUnit, RefusesDirectoriesThatLie) {
  const auto lie = [](const std::string& field, int64_t value) {
    return ErrorOf(PackZip(kTwo, {.field = field, .value = value}));
  };
  EXPECT_EQ(lie("none", 0), "");
  EXPECT_THAT(lie("size", 1 << 30), HasSubstr("entry root/a.txt"));
  EXPECT_THAT(lie("packed", 1 << 30), HasSubstr("entry root/a.txt"));
  EXPECT_THAT(lie("begin", 1 << 30), HasSubstr("entry a.txt"));
  EXPECT_THAT(lie("begin", 1), HasSubstr("there is no header"));
  EXPECT_THAT(lie("checksum", 1), AllOf(HasSubstr("entry a.txt"), HasSubstr("checksum")));
  EXPECT_THAT(lie("flags", 1), HasSubstr("encrypted"));
  EXPECT_THAT(lie("method", 12), HasSubstr("method 12"));
  EXPECT_THAT(lie("local_extra", 60000), HasSubstr("reach into the directory"));
  EXPECT_THAT(lie("name_size", 60000), HasSubstr("beyond the directory"));
  EXPECT_THAT(lie("count", 3), HasSubstr("entry 2 of 3"));
  EXPECT_THAT(lie("count", 1), HasSubstr("1 records take"));
  EXPECT_THAT(lie("directory_size", 1 << 30), HasSubstr("its directory is said"));
  EXPECT_THAT(lie("disk", 1), HasSubstr("several files"));
  EXPECT_THAT(ErrorOf("PK"), HasSubstr("2 bytes"));
  EXPECT_THAT(ErrorOf(std::string(100, 'x')), HasSubstr("no end record"));
}

TEST(ZipUnit, DamagedWeightsDoNotGoUnnoticed) {
  const TempFolder folder;
  const Network network = SmallConvNet();
  WritePt2(folder / "net.pt2", network);
  std::string bytes = ReadFile(folder / "net.pt2");
  const Tensor& weight = network.store.Get("conv1.weight");
  const size_t at =
      bytes.find(std::string(static_cast<const char*>(weight.const_data_ptr()), weight.nbytes()));
  ASSERT_NE(at, std::string::npos);
  bytes[at + 5] ^= 1;
  WriteFileAtomic(folder / "net.pt2", bytes);
  try {
    ReadPt2(folder / "net.pt2");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr("net.pt2"), HasSubstr("data/weights/"), HasSubstr("checksum")));
  }
}

/// What reading an archive with this pickle says; "" when it is read.
std::string PickleError(const std::string& program) {
  const std::string bytes = PackZip({{"archive/data.pkl", program}});
  try {
    ReadTorchSave(at::from_blob(const_cast<char*>(bytes.data()),
                                {static_cast<int64_t>(bytes.size())}, at::kByte));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    return error.message();
  }
  return "";
}

TEST(PickleUnit, NestedTuplesDoNotOverflowTheStack) {
  EXPECT_EQ(PickleError(")" + std::string(50, '\x85') + "."), "");
  EXPECT_THAT(PickleError(")" + std::string(300'000, '\x85') + "."), HasSubstr("nested too deep"));
  std::string marks(300'000, '(');
  EXPECT_THAT(PickleError(marks + std::string(300'000, 't') + "."), HasSubstr("nested too deep"));
}

TEST(PickleUnit, ALongListIsReadInLinearTime) {
  std::string program = "]";
  for (int i = 0; i < 200'000; ++i) program += "K\1a";  // one by one
  EXPECT_EQ(PickleError(program + "."), "");
}

TEST(PickleUnit, SizesOfTheInnerArchiveAreNotTrusted) {
  const std::string bytes =
      PackZip({{"archive/data.pkl", "N."}}, {.field = "size", .value = 1 << 30});
  try {
    ReadTorchSave(at::from_blob(const_cast<char*>(bytes.data()),
                                {static_cast<int64_t>(bytes.size())}, at::kByte));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), HasSubstr("data.pkl"));
  }
}

}  // namespace
}  // namespace espalier::fuzz
