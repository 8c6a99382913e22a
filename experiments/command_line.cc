#include "experiments/command_line.h"

#include <ATen/Parallel.h>

// --set values may hold commas (TOML arrays): one option, one value.
#define CXXOPTS_VECTOR_DELIMITER '\x1f'
#include <cxxopts.hpp>

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "env/base/error.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "experiments/settings.h"

namespace espalier {
namespace {

std::vector<OptionList::Option> AllOptions(const Command& command) {
  OptionList options;
  if (command.add_options) command.add_options(options);
  options.Flag("json", "data as JSON on stdout, talk on stderr");
  options.Flag("quiet", "no progress and no talk, only warnings and errors");
  options.Integer("threads", "N", 0, "threads inside one operator (also: ESPALIER_THREADS)");
  options.Flag("help", "this text");
  return options.options();
}

std::string HelpText(const Command& command) {
  std::ostringstream out;
  out << "espalier " << command.name << ": " << command.summary << "\n\nusage: espalier "
      << command.name << ' ' << command.usage << (command.usage.empty() ? "" : " ")
      << "[options]\n";
  if (!command.detail.empty()) out << '\n' << command.detail << '\n';
  out << "\noptions:\n";
  for (const auto& option : AllOptions(command)) {
    const std::string left = "  --" + option.name + ' ' + option.placeholder;
    out << std::left << std::setw(28) << left << ' ';
    if (left.size() > 28) out << '\n' << std::string(29, ' ');
    out << option.doc;
    const bool own_default =
        option.type != OptionList::Type::kFlag && !option.value.empty() && option.name != "threads";
    out << (own_default ? " [" + option.value + "]" : "") << '\n';
  }
  out << "\nexamples:\n";
  for (const auto& example : command.examples) out << "  " << example << '\n';
  return std::move(out).str();
}

/// cxxopts quotes names with typographic quotes; ours are plain.
std::string PlainQuotes(std::string text) {
  for (const char* quote : {"\u2018", "\u2019"})
    for (size_t at; (at = text.find(quote)) != std::string::npos;) text.replace(at, 3, "'");
  return text;
}

std::string Quoted(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) ||
           std::string("-_./=:,+@%").find(static_cast<char>(c)) != std::string::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

[[noreturn]] void ThrowUsage(const Command& command, const std::vector<std::string>& line,
                             const std::exception& caught) {
  const std::string help = Str("espalier ", command.name, " --help");
  const std::string message = PlainQuotes(caught.what());
  if (dynamic_cast<const cxxopts::exceptions::no_such_option*>(&caught)) {
    std::vector<std::string> names;
    for (const auto& option : AllOptions(command)) names.push_back("--" + option.name);
    for (const auto& word : line) {
      const std::string name = word.substr(0, word.find('='));
      const auto bare = name.find_first_not_of('-');
      if (name.empty() || name[0] != '-' || bare == std::string::npos) continue;
      if (message.find("'" + name.substr(bare) + "'") == std::string::npos) continue;
      const std::string near = NearestName(name, names);
      throw Error(
          ErrorKind::kUsage, Str("unknown option '", name, "' of espalier ", command.name),
          near.empty() ? help : Str("did you mean '", near, "'?   (all options: ", help, ")"));
    }
  }
  throw Error(ErrorKind::kUsage, Str("espalier ", command.name, ": ", message), help);
}

template <typename Number>
Number ReadNumber(const Command& command, const OptionList::Option& option, const std::string& text,
                  const char* what) {
  Number number{};
  const auto* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end)
    throw Error(ErrorKind::kUsage, Str("--", option.name, " ", text, ": ", what, " is expected"),
                Str("espalier ", command.name, " --help"));
  return number;
}

void SetThreads(const Arguments& arguments) {
  int64_t threads = 0;
  std::string origin = "--threads";
  if (arguments.Has("threads")) {
    threads = arguments.Integer("threads");
  } else if (const char* text = std::getenv("ESPALIER_THREADS"); text && *text) {
    origin = "ESPALIER_THREADS";
    char* end = nullptr;
    threads = std::strtoll(text, &end, 10);
    if (*end) threads = 0;
  } else {
    return;
  }
  if (threads < 1 || threads > 4096)
    throw Error(ErrorKind::kUsage, Str(origin, ": a whole number in [1, 4096] is expected"));
  at::set_num_threads(static_cast<int>(threads));
}

}  // namespace

std::string Arguments::Line() const {
  std::string text = "espalier";
  for (const auto& word : line_) text += ' ' + Quoted(word);
  return text;
}

void OptionList::Flag(const std::string& name, const std::string& doc) {
  options_.push_back({name, "", "", doc, Type::kFlag});
}
void OptionList::Text(const std::string& name, const std::string& placeholder,
                      const std::string& value, const std::string& doc) {
  options_.push_back({name, placeholder, value, doc, Type::kText});
}
void OptionList::Integer(const std::string& name, const std::string& placeholder, int64_t value,
                         const std::string& doc) {
  options_.push_back({name, placeholder, Str(value), doc, Type::kInteger});
}
void OptionList::Real(const std::string& name, const std::string& placeholder, double value,
                      const std::string& doc) {
  options_.push_back({name, placeholder, Str(value), doc, Type::kReal});
}
void OptionList::List(const std::string& name, const std::string& placeholder,
                      const std::string& doc) {
  options_.push_back({name, placeholder, "", doc, Type::kList});
}

const Arguments::Value& Arguments::Get(const std::string& option) const {
  const auto found = values_.find(option);
  ESPALIER_CHECK(found != values_.end(), "no option --", option);
  return found->second;
}
bool Arguments::Has(const std::string& option) const { return Get(option).given; }
const std::string& Arguments::Text(const std::string& option) const {
  return Get(option).words.back();
}
int64_t Arguments::Integer(const std::string& option) const { return Get(option).integer; }
double Arguments::Real(const std::string& option) const { return Get(option).real; }
const std::vector<std::string>& Arguments::List(const std::string& option) const {
  return Get(option).words;
}

Arguments ParseLine(const Command& command, const std::vector<std::string>& line) {
  const std::vector<OptionList::Option> known = AllOptions(command);
  cxxopts::Options options("espalier " + command.name, command.summary);
  auto add = options.add_options();
  const auto words_value = [] { return cxxopts::value<std::vector<std::string>>(); };
  for (const auto& option : known) {
    if (option.type == OptionList::Type::kFlag)
      add(option.name, option.doc);
    else
      add(option.name, option.doc, words_value(), option.placeholder);
  }
  add("positional", "", words_value());
  options.parse_positional({"positional"});
  std::vector<const char*> words = {"espalier"};
  for (const auto& word : line) words.push_back(word.c_str());

  Arguments arguments;
  arguments.line_ = {command.name};
  arguments.line_.insert(arguments.line_.end(), line.begin(), line.end());
  try {
    const auto parsed = options.parse(static_cast<int>(words.size()), words.data());
    const auto list = [&](const std::string& name) {
      return parsed.count(name) ? parsed[name].as<std::vector<std::string>>()
                                : std::vector<std::string>{};
    };
    arguments.positional_ = list("positional");
    for (const auto& option : known) {
      auto& value = arguments.values_[option.name];
      value.given = parsed.count(option.name) > 0;
      if (option.type == OptionList::Type::kFlag) continue;
      value.words = list(option.name);
      if (option.type == OptionList::Type::kList) continue;
      if (!value.given) value.words = {option.value};
      const std::string& text = value.words.back();
      if (option.type == OptionList::Type::kInteger)
        value.integer = ReadNumber<int64_t>(command, option, text, "a whole number");
      if (option.type == OptionList::Type::kReal)
        value.real = ReadNumber<double>(command, option, text, "a number");
    }
  } catch (const cxxopts::exceptions::exception& caught) {
    ThrowUsage(command, line, caught);
  }
  const size_t given = arguments.positional_.size();
  if (arguments.Has("help")) return arguments;
  if (given < command.least_positional || given > command.most_positional)
    throw Error(ErrorKind::kUsage,
                given < command.least_positional
                    ? Str("espalier ", command.name, ": ", command.usage, " is missing")
                    : Str("espalier ", command.name, ": '",
                          arguments.positional_[command.most_positional], "' is one word too many"),
                Str("espalier ", command.name, " --help"));
  return arguments;
}

int RunCommand(const Command& command, const std::vector<std::string>& line) {
  const Arguments arguments = ParseLine(command, line);
  if (arguments.Has("help")) {
    Print(HelpText(command));
    return 0;
  }
  SetThreads(arguments);
  AllowTf32(false);  // unless a config says otherwise
  if (arguments.Has("quiet")) {
    SetQuiet(true);
    SetLogLevel(LogLevel::kWarning);
  }
  CatchInterrupts();
  return command.run(arguments);
}

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) throw Error(ErrorKind::kIo, "cannot write to stdout");
}

void PrintJson(const nlohmann::ordered_json& data) { Print(data.dump() + "\n"); }

bool TextTable::IsNumeric(size_t column) const {
  bool any = false;
  for (size_t row = has_header_ ? 1 : 0; row < rows_.size(); ++row) {
    if (column >= rows_[row].size() || rows_[row][column].empty()) continue;
    const unsigned char first = static_cast<unsigned char>(rows_[row][column][0]);
    if (!std::isdigit(first) && first != '-' && first != '+' && first != '.') return false;
    any = true;
  }
  return any;
}

std::string TextTable::Text(const std::string& indent) const {
  std::vector<size_t> widths;
  const auto width_of = [](const std::string& cell) {  // code points, not bytes
    return static_cast<size_t>(std::count_if(cell.begin(), cell.end(),
                                             [](unsigned char c) { return (c & 0xC0) != 0x80; }));
  };
  for (const auto& row : rows_)
    for (size_t column = 0; column < row.size(); ++column) {
      if (widths.size() <= column) widths.push_back(0);
      widths[column] = std::max(widths[column], width_of(row[column]));
    }
  std::vector<bool> numeric;
  for (size_t column = 0; column < widths.size(); ++column) numeric.push_back(IsNumeric(column));
  std::string text;
  for (const auto& row : rows_) {
    std::string out = indent;
    for (size_t column = 0; column < row.size(); ++column) {
      const std::string& cell = row[column];
      const std::string pad(widths[column] - width_of(cell), ' ');
      out += numeric[column] ? pad + cell : cell + pad;
      out += "  ";
    }
    out.erase(out.find_last_not_of(' ') + 1);
    text += out + '\n';
  }
  return text;
}

std::string Fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return std::move(out).str();
}

std::string Percent(double fraction, int digits) { return Fixed(100 * fraction, digits) + " %"; }

std::string Millions(double amount) {
  if (std::abs(amount) >= 1e9) return Fixed(amount / 1e9, 3) + " G";
  if (std::abs(amount) >= 1e6) return Fixed(amount / 1e6, 2) + " M";
  if (std::abs(amount) >= 1e4) return Fixed(amount / 1e3, 1) + " k";
  return Fixed(amount, 0);
}

}  // namespace espalier
