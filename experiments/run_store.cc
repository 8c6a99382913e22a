#include "experiments/run_store.h"

#include <sqlite3.h>

#include <algorithm>
#include <iterator>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr int kSchemaVersion = 1;
constexpr const char* kTables[] = {
    "metrics(stage TEXT NOT NULL, step INTEGER NOT NULL, "
    "name TEXT NOT NULL, value REAL, PRIMARY KEY(stage, name, step)) WITHOUT ROWID",
    "trials(name TEXT PRIMARY KEY, status TEXT NOT NULL, "
    "kept TEXT NOT NULL, macs REAL, params REAL, seconds REAL)"};

/// A prepared statement: bound in order, stepped, always finalised.
class Statement {
 public:
  Statement(sqlite3* database, const std::filesystem::path& file, const char* sql)
      : database_(database), file_(file) {
    if (sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr) != SQLITE_OK) Throw();
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(const std::string& text) {
    sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                      SQLITE_TRANSIENT);
    return *this;
  }
  Statement& Bind(double value) {
    sqlite3_bind_double(statement_, ++bound_, value);
    return *this;
  }
  Statement& Bind(int64_t value) {
    sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  bool Row() {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) Throw();
    return false;
  }
  std::string Text(int column) const {
    const auto* text = sqlite3_column_text(statement_, column);
    return text ? reinterpret_cast<const char*>(text) : "";
  }
  double Real(int column) const { return sqlite3_column_double(statement_, column); }
  int64_t Integer(int column) const { return sqlite3_column_int64(statement_, column); }

 private:
  [[noreturn]] void Throw() const {
    const int code = sqlite3_errcode(database_);
    throw Error(code == SQLITE_FULL ? ErrorKind::kResource : ErrorKind::kIo,
                Str("'", file_.string(), "': ", sqlite3_errmsg(database_)),
                code == SQLITE_NOTADB || code == SQLITE_CORRUPT
                    ? "the database is damaged; remove it, the run makes it anew"
                    : "");
  }
  sqlite3* database_;
  const std::filesystem::path& file_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

}  // namespace

RunStore::RunStore(const std::filesystem::path& file) : file_(file) {
  if (sqlite3_open(file.c_str(), &database_) != SQLITE_OK) {
    const std::string message = Message();
    sqlite3_close(database_);
    throw Error(ErrorKind::kIo, message);
  }
  sqlite3_busy_timeout(database_, 10'000);
  try {
    Execute("PRAGMA trusted_schema=OFF");
    Execute("PRAGMA cell_size_check=ON");
    Execute("PRAGMA journal_mode=WAL");
    Execute("PRAGMA synchronous=NORMAL");
    Statement version(database_, file_, "PRAGMA user_version");
    version.Row();
    const int64_t found = version.Integer(0);
    if (found != 0 && found != kSchemaVersion)
      throw Error(ErrorKind::kIo, Str("'", file.string(), "' has schema version ", found,
                                      "; this program knows ", kSchemaVersion));
    for (const char* table : kTables) Execute(Str("CREATE TABLE IF NOT EXISTS ", table).c_str());
    CheckSchema();
    if (found == 0) Execute(Str("PRAGMA user_version=", kSchemaVersion).c_str());
  } catch (...) {
    sqlite3_close(database_);
    throw;
  }
}

RunStore::~RunStore() { sqlite3_close(database_); }

/// Views, triggers and generated columns of a stranger's file would be computed as we read.
void RunStore::CheckSchema() {
  Statement rows(database_, file_, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL");
  while (rows.Row()) {
    const std::string sql = rows.Text(0);
    if (std::none_of(std::begin(kTables), std::end(kTables),
                     [&](const char* table) { return sql == Str("CREATE TABLE ", table); }))
      throw Error(ErrorKind::kIo, Str("'", file_.string(),
                                      "' holds something else than a run: ", sql.substr(0, 100)));
  }
}

std::string RunStore::Message() const {
  return Str("'", file_.string(), "': ", database_ ? sqlite3_errmsg(database_) : "cannot open");
}

void RunStore::Execute(const char* sql) {
  Statement statement(database_, file_, sql);
  while (statement.Row()) {
  }
}

void RunStore::SetMetric(const std::string& stage, int64_t step, const std::string& name,
                         double value) {
  Statement(database_, file_,
            "INSERT OR REPLACE INTO metrics(stage, step, name, value) "
            "VALUES(?, ?, ?, ?)")
      .Bind(stage)
      .Bind(step)
      .Bind(name)
      .Bind(value)
      .Row();
}

void RunStore::SetTrial(const TrialRecord& trial) {
  Statement(database_, file_,
            "INSERT OR REPLACE INTO trials(name, status, kept, macs, params, "
            "seconds) VALUES(?, ?, ?, ?, ?, ?)")
      .Bind(trial.name)
      .Bind(trial.status)
      .Bind(trial.kept_json)
      .Bind(trial.macs)
      .Bind(trial.params)
      .Bind(trial.seconds)
      .Row();
}

std::vector<RunStore::Curve> RunStore::Curves(const std::string& stage) const {
  Statement rows(database_, file_,
                 "SELECT name, step, value FROM metrics WHERE stage = ? ORDER BY name, step");
  rows.Bind(stage);
  std::vector<Curve> curves;
  while (rows.Row()) {
    if (curves.empty() || curves.back().name != rows.Text(0)) curves.push_back({rows.Text(0), {}});
    curves.back().points.emplace_back(rows.Integer(1), rows.Real(2));
  }
  return curves;
}

std::vector<TrialRecord> RunStore::Trials() const {
  Statement rows(database_, file_,
                 "SELECT name, status, kept, macs, params, seconds FROM trials ORDER BY rowid");
  std::vector<TrialRecord> trials;
  while (rows.Row())
    trials.push_back(
        {rows.Text(0), rows.Text(1), rows.Text(2), rows.Real(3), rows.Real(4), rows.Real(5)});
  return trials;
}

}  // namespace espalier
