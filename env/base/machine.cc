#include "env/base/machine.h"

#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

namespace espalier {

std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::string AcceleratorNames() {
  std::set<std::filesystem::path> folders;  // in an order of their own
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", absent))
    folders.insert(entry.path());
  std::string names;
  for (const auto& folder : folders) {
    std::ifstream info(folder / "information");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("Model:"))
        names += (names.empty() ? "" : ", ") +
                 line.substr(std::min(line.size(), line.find_first_not_of(" \t", 6)));
  }
  return names;
}

void KeepFreedMemory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_ARENA_MAX, 1);        // those of other threads hold no large blocks
#endif
}

}  // namespace espalier
