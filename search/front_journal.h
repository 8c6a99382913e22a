#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace espalier {

/// An order of all units, and what cutting it at every budget was worth.
struct FrontOrder {
  std::vector<double> scale, shift;  ///< [groups]: of the scores
  std::vector<double> values{};      ///< [budgets], larger = better
  double fitness() const;            ///< their mean
};

/// Orders evaluated together.
struct FrontGeneration {
  std::vector<FrontOrder> orders;
  double seconds = 0;  ///< wall time of the search up to their end, over all resumes
};

/// front.jsonl (docs/formats.md): what a search of the strategy `front` evaluated.
struct FrontJournal {
  std::string fingerprint;  ///< of the search it belongs to
  std::vector<FrontGeneration> generations{};
};

/// A torn last line is left out: that generation was never learned from. Empty when not even the
/// header is whole. Errors: kIo; kData naming file and line.
std::optional<FrontJournal> ReadFrontJournal(const std::filesystem::path& file);
void WriteFrontJournal(const std::filesystem::path& file, const FrontJournal& journal);
void AppendGeneration(const std::filesystem::path& file,
                      const FrontGeneration& generation);  ///< synced

}  // namespace espalier
