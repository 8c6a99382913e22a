#include "env/base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "env/base/error.h"
#include "env/base/rng.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              Str("espalier_", testing::UnitTest::GetInstance()->current_test_info()->name(), "_",
                  ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  size_t Entries() const {
    return std::distance(fs::directory_iterator(folder_), fs::directory_iterator());
  }

  fs::path folder_;
};
using FilesUnit = FilesTest;
using FilesProperty = FilesTest;

ErrorKind KindOf(const std::function<void()>& action, std::string* message = nullptr) {
  try {
    action();
  } catch (const Error& error) {
    if (message) *message = error.message();
    return error.kind();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorKind::kInternal;
}

TEST_F(FilesUnit, WritesReadsAndReplaces) {
  const fs::path path = folder_ / "new" / "deep" / "file.bin";
  const std::string bytes("a\0b\nc", 5);
  WriteFileAtomic(path, bytes);
  EXPECT_EQ(ReadFile(path), bytes);
  WriteFileAtomic(path, "shorter");
  EXPECT_EQ(ReadFile(path), "shorter");
  WriteFileAtomic(path, "");
  EXPECT_EQ(ReadFile(path), "");
}

TEST_F(FilesUnit, RelativePathWithoutFolderWorks) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  WriteFileAtomic("plain.txt", "here");
  AppendLine("plain.txt", "there");
  fs::current_path(before);
  EXPECT_EQ(ReadFile(folder_ / "plain.txt"), "here\nthere\n");
}

TEST_F(FilesUnit, OldFileStaysWhenTheWriterThrows) {
  const fs::path path = folder_ / "weights.bin";
  WriteFileAtomic(path, "old");
  EXPECT_THROW(WriteFileAtomic(path,
                               [&](const fs::path& temporary) {
                                 EXPECT_EQ(temporary.parent_path(), folder_);
                                 std::ofstream(temporary) << "half of the new";
                                 EXPECT_EQ(ReadFile(path), "old");
                                 throw std::runtime_error("killed");
                               }),
               std::runtime_error);
  EXPECT_EQ(ReadFile(path), "old");
  EXPECT_EQ(Entries(), 1u) << "a temporary file was left behind";
}

TEST_F(FilesUnit, WriterThatWritesNothingIsAnErrorAndChangesNothing) {
  const fs::path path = folder_ / "weights.bin";
  WriteFileAtomic(path, "old");
  EXPECT_EQ(KindOf([&] { WriteFileAtomic(path, [](const fs::path&) {}); }), ErrorKind::kIo);
  EXPECT_EQ(ReadFile(path), "old");
}

TEST_F(FilesUnit, ErrorsNameThePath) {
  std::string message;
  EXPECT_EQ(KindOf([&] { ReadFile(folder_ / "absent"); }, &message), ErrorKind::kIo);
  EXPECT_NE(message.find("absent"), std::string::npos) << message;
  EXPECT_NE(message.find("No such file"), std::string::npos) << message;
  EXPECT_EQ(KindOf([&] { ReadFile(folder_); }, &message), ErrorKind::kIo);
  EXPECT_NE(message.find("Is a directory"), std::string::npos) << message;
  EXPECT_EQ(KindOf([&] { Sha256OfFile(folder_ / "absent"); }), ErrorKind::kIo);
  WriteFileAtomic(folder_ / "file", "x");
  EXPECT_EQ(KindOf([&] { WriteFileAtomic(folder_ / "file" / "below", "y"); }, &message),
            ErrorKind::kIo);
  EXPECT_EQ(KindOf([&] { WriteFileAtomic(folder_, "a folder is in the way"); }), ErrorKind::kIo);
}

TEST_F(FilesUnit, FullDiskIsAResourceError) {
  // /dev/full says "no space left" to every write.
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  EXPECT_EQ(KindOf([] { AppendLine("/dev/full", "line"); }), ErrorKind::kResource);
}

TEST_F(FilesUnit, TooLargeIsAnErrorThatNamesTheLimit) {
  const fs::path path = folder_ / "file";
  WriteFileAtomic(path, "12345");
  EXPECT_EQ(ReadFile(path, 5), "12345");
  std::string message;
  EXPECT_EQ(KindOf([&] { ReadFile(path, 4); }, &message), ErrorKind::kIo);
  EXPECT_NE(message.find("at most 4"), std::string::npos) << message;
}

TEST_F(FilesUnit, ReadsPipesWhoseSizeIsUnknown) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const std::string bytes(100000, 'p');
  std::thread writer([&] { std::ofstream(pipe) << bytes; });
  const std::string read = ReadFile(pipe);
  writer.join();
  EXPECT_EQ(read, bytes);
}

TEST_F(FilesUnit, AppendLineStartsAfreshAfterATornLine) {
  const fs::path path = folder_ / "runs" / "journal";
  AppendLine(path, "first");
  AppendLine(path, "second");
  EXPECT_EQ(ReadFile(path), "first\nsecond\n");
  WriteFileAtomic(path, "first\nsec");  // as a crash would leave it
  AppendLine(path, "third");
  EXPECT_EQ(ReadFile(path), "first\nsec\nthird\n");
}

TEST_F(FilesUnit, Sha256GivesThePublishedDigests) {
  // FIPS 180-4 examples.
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_F(FilesProperty, HashOfAFileIsTheHashOfItsBytes) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    // Around the piece size of 1 MiB for some, small for others.
    const size_t size = seed % 5 == 0 ? (1 << 20) - 1 + rng.Index(3) : rng.Index(5000);
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(rng.Next());
    WriteFileAtomic(folder_ / "file", bytes);
    EXPECT_EQ(Sha256OfFile(folder_ / "file"), Sha256Hex(bytes)) << "seed " << seed;
    EXPECT_EQ(ReadFile(folder_ / "file"), bytes) << "seed " << seed;
  }
}

TEST_F(FilesProperty, ConcurrentWritersLeaveOneWholeVersion) {
  const fs::path path = folder_ / "shared";
  std::vector<std::thread> writers;
  for (char letter = 'a'; letter < 'e'; ++letter)
    writers.emplace_back([&, letter] {
      for (int i = 0; i < 10; ++i) WriteFileAtomic(path, std::string(20000, letter));
    });
  for (std::thread& writer : writers) writer.join();
  const std::string bytes = ReadFile(path);
  EXPECT_EQ(bytes, std::string(20000, bytes.at(0)));
  EXPECT_EQ(Entries(), 1u);
}

}  // namespace
}  // namespace espalier
