#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace espalier {

/// A bound such as `macs`: `0.5` is a fraction of the uncut network, `"55.84M"` or `1e6` an amount.
struct Quantity {
  double value = 0;
  bool is_fraction = false;  ///< true when 0 < value <= 1 was written as a number
  bool operator==(const Quantity&) const = default;
};
Quantity ParseQuantity(
    const std::string& text);  ///< "0.5", "55.84M", "1.2G", "640k"; throws kConfig
std::string ToString(const Quantity& quantity);

struct RealRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool open_low = false, open_high = false;  ///< true: the end itself is not allowed
};
struct IntRange {
  int64_t low = std::numeric_limits<int64_t>::min();
  int64_t high = std::numeric_limits<int64_t>::max();
};

/// Where a Field stores its value; the alternative fixes the TOML type that is accepted.
using FieldTarget =
    std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*,
                 std::vector<double>*, std::vector<std::string>*, std::optional<Quantity>*>;

struct Field {
  std::string name;
  FieldTarget target;
  std::string doc;  ///< meaning, unit; the paper's value if ours differs
  RealRange real_range{};
  IntRange int_range{};
  std::vector<std::string> choices{};  ///< allowed strings; empty = any
};

/// The fields of one config struct: one list that reads, checks, documents and dumps it.
/// A component writes `Schema Describe(XConfig& config);` beside its struct and nothing else.
class Schema {
 public:
  Schema& Add(std::string name, bool* target, std::string doc);
  Schema& Add(std::string name, int64_t* target, std::string doc, IntRange range = {});
  Schema& Add(std::string name, double* target, std::string doc, RealRange range = {});
  Schema& Add(std::string name, std::string* target, std::string doc,
              std::vector<std::string> choices = {});
  Schema& Add(std::string name, std::vector<int64_t>* target, std::string doc);
  Schema& Add(std::string name, std::vector<double>* target, std::string doc);
  Schema& Add(std::string name, std::vector<std::string>* target, std::string doc);
  Schema& Add(std::string name, std::optional<Quantity>* target, std::string doc);
  Schema& Append(const Schema& other) {
    fields_.insert(fields_.end(), other.fields_.begin(), other.fields_.end());
    return *this;
  }
  const std::vector<Field>& fields() const { return fields_; }

 private:
  std::vector<Field> fields_;
};

std::string TypeName(const Field& field);      ///< "integer", "number", "string", "boolean", ...
std::string CurrentValue(const Field& field);  ///< as TOML text
std::string RangeText(const Field& field);     ///< "in (0, 1]", "one of sgd, adamw", or ""

/// One table of a config with the origin (file:line, or --set) of every key.
/// Cheap to copy; a default-constructed section is empty (all defaults).
class ConfigSection {
 public:
  ConfigSection() = default;
  bool Has(const std::string& key) const;
  std::vector<std::string> keys() const;
  std::string Origin(const std::string& key) const;  ///< "quick.toml:14", "--set", or "default"
  const std::string& name() const { return name_; }  ///< "strategy"
  std::optional<std::string> GetString(const std::string& key) const;  ///< e.g. the `name` key

  /// Reads every key into the schema's targets. Keys in `also_known` are left to the caller.
  /// Every unknown key, wrong type and out-of-range value is appended to `problems` (with origin,
  /// allowed values and the nearest key).
  void ReadInto(const Schema& schema, const std::vector<std::string>& also_known,
                std::vector<std::string>& problems) const;

 private:
  friend class ConfigDocument;
  struct Data;
  std::shared_ptr<const Data> data_;
  std::string name_;
};

/// A TOML config: the file, what it includes (relative to it, later keys win) and --set overrides.
/// At most 64 files of 1 MiB; keys of 16 parts, values nested 16 deep.
class ConfigDocument {
 public:
  /// Errors: kConfig with file:line for syntax errors, missing includes and bad overrides.
  static ConfigDocument Load(const std::filesystem::path& path,
                             const std::vector<std::string>& overrides = {});
  static ConfigDocument Parse(const std::string& text, const std::string& origin,
                              const std::vector<std::string>& overrides = {});
  ConfigSection Section(const std::string& name) const;  ///< empty when absent
  std::vector<std::string> sections() const;
  /// Reports top-level tables or keys outside `known`.
  void CheckSections(const std::vector<std::string>& known,
                     std::vector<std::string>& problems) const;
  const std::filesystem::path& path() const { return path_; }
  /// Paths inside a config are relative to the folder of the file that names them; absolute stay.
  std::filesystem::path ResolvePath(const std::string& section, const std::string& key,
                                    const std::string& value) const;

 private:
  std::shared_ptr<const ConfigSection::Data> root_;
  std::filesystem::path path_;
};

/// Throws one kConfig error that lists all problems; does nothing when there are none.
void ThrowIfProblems(const std::vector<std::string>& problems);

/// Schema as `key = value  # origin` lines of TOML: how the resolved config is saved with a run.
std::string DumpToml(const std::string& section_name, const Schema& schema,
                     const ConfigSection& origins);

}  // namespace espalier
