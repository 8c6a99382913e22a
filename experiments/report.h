#pragma once

#include <filesystem>

namespace espalier {

/// Writes `report.html` of a run folder: one self-contained page (inline style, script and
/// drawings, no network) for light and dark screens, small screens and paper. Reads only the
/// folder, so that it can be made again at any time; stages that are not done yet are left out and
/// said so. Returns the file. Errors: kIo when the folder is no run or damaged.
std::filesystem::path WriteReport(const std::filesystem::path& folder);

}  // namespace espalier
