#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "search/front_order.h"

namespace espalier {

/// Orders evaluated together.
struct FrontGeneration {
  std::vector<FrontOrder> orders;
  int64_t left_out = 0;  ///< orders dropped after a candidate each
  double seconds = 0;    ///< wall time of the search up to their end, over all resumes
};

/// front.jsonl (docs/formats.md): what a search of the strategy `front` evaluated.
struct FrontJournal {
  std::string fingerprint;       ///< of the search it belongs to
  std::vector<double> damage{};  ///< [probes]; empty: not measured
  std::vector<FrontGeneration> generations{};
};

/// A torn last line is left out: that generation was never learned from. Empty when not even the
/// header is whole. Errors: kIo; kData naming file and line.
std::optional<FrontJournal> ReadFrontJournal(const std::filesystem::path& file);
void WriteFrontJournal(const std::filesystem::path& file, const FrontJournal& journal);
void AppendGeneration(const std::filesystem::path& file,
                      const FrontGeneration& generation);  ///< synced

}  // namespace espalier
