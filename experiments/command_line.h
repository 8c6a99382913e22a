#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier {

/// The options of one command; each with a default, so that every name can be read.
class OptionList {
 public:
  void Flag(const std::string& name, const std::string& doc);
  void Text(const std::string& name, const std::string& placeholder, const std::string& value,
            const std::string& doc);
  void Integer(const std::string& name, const std::string& placeholder, int64_t value,
               const std::string& doc);
  void Real(const std::string& name, const std::string& placeholder, double value,
            const std::string& doc);
  void List(const std::string& name, const std::string& placeholder, const std::string& doc);

  enum class Type { kFlag, kText, kInteger, kReal, kList };
  struct Option {
    std::string name, placeholder, value, doc;
    Type type;
  };
  const std::vector<Option>& options() const { return options_; }

 private:
  std::vector<Option> options_;
};

/// The parsed line of one command.
class Arguments {
 public:
  bool Has(const std::string& option) const;  ///< given on the line
  const std::string& Text(const std::string& option) const;
  int64_t Integer(const std::string& option) const;
  double Real(const std::string& option) const;
  const std::vector<std::string>& List(const std::string& option) const;
  const std::vector<std::string>& positional() const { return positional_; }
  bool json() const { return Has("json"); }
  std::string Line() const;  ///< the whole command as typed, quoted for a shell

 private:
  friend Arguments ParseLine(const struct Command&, const std::vector<std::string>&);
  struct Value {
    bool given = false;
    std::vector<std::string> words;
    int64_t integer = 0;
    double real = 0;
  };
  const Value& Get(const std::string& option) const;
  std::map<std::string, Value> values_;
  std::vector<std::string> positional_, line_;
};

/// One subcommand: its help, its options and what it does. A new one costs a file in commands/ and
/// a line in commands/commands.cc. Every command also has --json, --quiet, --threads and --help.
struct Command {
  std::string name;
  std::string usage;    ///< positional arguments as the help shows them: "CONFIG"
  std::string summary;  ///< one line
  std::string detail;   ///< further help text; may be empty
  std::vector<std::string> examples;
  size_t least_positional = 0;
  size_t most_positional = 0;
  void (*add_options)(OptionList& add) = nullptr;    ///< may be null
  int (*run)(const Arguments& arguments) = nullptr;  ///< returns the exit code
};

/// Errors: kUsage for unknown options (with the nearest one), values of the wrong type, missing or
/// surplus arguments.
Arguments ParseLine(const Command& command, const std::vector<std::string>& line);

/// Parses `line` (without program and command name) and runs the command: prints help, sets
/// threads, quietness and interrupt handling first. Errors: kUsage for unknown options (with the
/// nearest one), missing or surplus arguments.
int RunCommand(const Command& command, const std::vector<std::string>& line);

/// One line of JSON on stdout: the data of a command under --json.
void PrintJson(const nlohmann::ordered_json& data);

/// Text on stdout: the data of a command without --json.
void Print(const std::string& text);

/// Columns padded to their widest cell; columns of numbers flush right.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) {  ///< {} = no header line
    has_header_ = !header.empty();
    if (has_header_) rows_.push_back(std::move(header));
  }
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string Text(const std::string& indent = "") const;

 private:
  bool IsNumeric(size_t column) const;
  std::vector<std::vector<std::string>> rows_;
  bool has_header_;
};

std::string Percent(double fraction, int digits = 2);  ///< "91.25 %"
std::string Millions(double amount);                   ///< "4.112 G", "126.55 M", "460.7 k", "812"
std::string Fixed(double value, int digits);

}  // namespace espalier
