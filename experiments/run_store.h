#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

struct sqlite3;

namespace espalier {

/// One candidate that was cut and measured.
struct TrialRecord {
  std::string name;       ///< "autobot", "uniform": unique in the run
  std::string status;     ///< "complete" or why not
  std::string kept_json;  ///< kept counts per group
  double macs = 0, params = 0, seconds = 0;
};

/// run.db: trials and metrics of one run (SQLite, write-ahead log, one writer).
///
/// Metrics are keyed by (stage, step, name): reporting a step again after a resume replaces it.
/// Errors   kIo naming the file; a database that is not ours or damaged included.
class RunStore {
 public:
  explicit RunStore(const std::filesystem::path& file);
  ~RunStore();
  RunStore(const RunStore&) = delete;
  RunStore& operator=(const RunStore&) = delete;

  void SetMetric(const std::string& stage, int64_t step, const std::string& name, double value);
  void SetTrial(const TrialRecord& trial);

  struct Curve {
    std::string name;
    std::vector<std::pair<int64_t, double>> points;  ///< by step
  };
  std::vector<Curve> Curves(const std::string& stage) const;
  std::vector<TrialRecord> Trials() const;

 private:
  void Execute(const char* sql);
  void CheckSchema();
  std::string Message() const;
  std::filesystem::path file_;
  sqlite3* database_ = nullptr;
};

}  // namespace espalier
