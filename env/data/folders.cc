#include "env/data/folders.h"

#include <algorithm>
#include <cctype>

#include "env/base/error.h"

namespace espalier::internal {

namespace fs = std::filesystem;

SplitFolders FindSplitFolders(const fs::path& root, const std::string& holds) {
  if (!fs::is_directory(root))
    throw Error(ErrorKind::kData, Str("data.root = \"", root.string(), "\": no such folder"),
                Str("name the folder of ", holds));
  const auto there = [&](const char* name) {
    return fs::is_directory(root / name) ? root / name : fs::path();
  };
  SplitFolders folders{there("train"), there("validation"), there("test")};
  if (folders.validation.empty()) folders.validation = there("val");
  if (folders.train.empty()) return {root, {}, {}};
  return folders;
}

std::vector<fs::path> FilesEndingIn(const fs::path& folder,
                                    const std::vector<std::string>& endings) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string ending = entry.path().extension().string();
    for (char& letter : ending)
      letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    if (entry.is_regular_file() &&
        std::find(endings.begin(), endings.end(), ending) != endings.end())
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace espalier::internal
