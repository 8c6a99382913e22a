#pragma once

#include <filesystem>
#include <vector>

#include "env/graph/network.h"
#include "tests/fuzz/mutators.h"

namespace espalier::fuzz {

/// What a command does first with a network; running it is not the readers' affair.
void Use(const Network& network);

std::vector<ZipEntry> Unpack(const std::filesystem::path& path);

}  // namespace espalier::fuzz
