#include <gtest/gtest.h>

#include "env/graph/executor.h"
#include "env/graph/zip_file.h"
#include "tests/fuzz/harness.h"
#include "tests/fuzz/networks.h"

namespace espalier::fuzz {

namespace fs = std::filesystem;

void Use(const Network& network) {
  Validate(network.graph);
  for (const std::string& name : network.store.names()) TouchAll(network.store.Get(name));
  for (const Value& value : network.graph.values)
    if (!value.target.empty()) network.store.Get(value.target);
  ASSERT_FALSE(network.graph.outputs.empty());
}

std::vector<ZipEntry> Unpack(const fs::path& path) {
  std::vector<ZipEntry> entries;
  ZipFile zip(path);
  for (const std::string& name : zip.names()) {
    std::string bytes(zip.Size(name), '\0');
    zip.Read(name, bytes.data());
    entries.push_back({"archive/" + name, std::move(bytes)});
  }
  return entries;
}

}  // namespace espalier::fuzz
