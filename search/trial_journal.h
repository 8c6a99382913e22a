#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "search/proposer.h"

namespace espalier {

/// trials.jsonl (docs/formats.md): what a search was told, batch by batch.
struct SearchWork {
  double seconds = 0;    ///< wall time
  int64_t forwards = 0;  ///< in samples
};
struct TrialJournal {
  std::string fingerprint;  ///< of the search it belongs to
  std::vector<std::vector<Trial>> batches{};
  SearchWork work{};  ///< up to the last batch
};

/// A torn last line is left out: that batch was never told. Errors: kIo; kData naming file and
/// line.
TrialJournal ReadJournal(const std::filesystem::path& file);
std::vector<Trial> ReadTrials(const std::filesystem::path& file);  ///< those of all its batches
void WriteJournal(const std::filesystem::path& file, const TrialJournal& journal);
void AppendBatch(const std::filesystem::path& file, std::span<const Trial> batch,
                 const SearchWork& work);  ///< synced

}  // namespace espalier
