#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "env/base/config.h"
#include "env/base/error.h"

namespace espalier {
namespace {

struct Suffix {
  char letter;
  double scale;
};
constexpr Suffix kSuffixes[] = {{'T', 1e12}, {'G', 1e9}, {'M', 1e6}, {'k', 1e3}};

/// The shortest decimal that reads back as the same double.
std::string ShortestText(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

/// The same without an exponent.
std::string FixedText(double value) {
  char digits[400];  // 5e-324 has 324 places
  return {digits,
          std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed).ptr};
}

std::string TomlText(bool value) { return value ? "true" : "false"; }
std::string TomlText(int64_t value) { return std::to_string(value); }
std::string TomlText(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  std::string text = ShortestText(value);
  // "1" would be a TOML integer.
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}
std::string TomlText(const std::string& value) {
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      text += {'\\', c};
    } else if (c == '\n') {
      text += "\\n";
    } else if (c == '\t') {
      text += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      constexpr char kHex[] = "0123456789ABCDEF";
      text += {'\\', 'u', '0', '0', kHex[(c >> 4) & 15], kHex[c & 15]};
    } else {
      text += c;
    }
  }
  return text + '"';
}
std::string TomlText(const std::optional<Quantity>& value) {
  if (!value) return "";
  const std::string text = ToString(*value);
  return value->is_fraction ? text : '"' + text + '"';
}
template <typename T>
std::string TomlText(const std::vector<T>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + TomlText(values[i]);
  return text + "]";
}

template <typename Range, typename Number>
std::string BoundsText(const Range& range, Number lowest, Number highest, bool open_low,
                       bool open_high, std::string (*text)(Number)) {
  const bool has_low = range.low != lowest, has_high = range.high != highest;
  if (has_low && has_high)
    return Str("in ", open_low ? "(" : "[", text(range.low), ", ", text(range.high),
               open_high ? ")" : "]");
  if (has_low) return (open_low ? "> " : ">= ") + text(range.low);
  if (has_high) return (open_high ? "< " : "<= ") + text(range.high);
  return "";
}

}  // namespace

Quantity ParseQuantity(const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  auto [rest, problem] = std::from_chars(text.data(), end, value);
  bool is_amount = false;
  if (problem == std::errc() && std::string_view(rest, end) == "ms") {
    is_amount = true;
    rest = end;
  }
  if (problem == std::errc() && rest + 1 == end) {
    for (const Suffix& suffix : kSuffixes) {
      if (*rest != suffix.letter && !(*rest == 'K' && suffix.letter == 'k')) continue;
      value *= suffix.scale;
      is_amount = true;
      ++rest;
      break;
    }
  }
  if (problem != std::errc() || rest != end || !std::isfinite(value) || value <= 0)
    throw Error(
        ErrorKind::kConfig, Str("'", text, "' is not an amount"),
        "a fraction in (0, 1] such as 0.5, or an amount such as 1200000, 640k, 55.84M, 1.2G");
  return {.value = value, .is_fraction = !is_amount && value <= 1};
}

std::string ToString(const Quantity& quantity) {
  if (quantity.is_fraction) return ShortestText(quantity.value);
  for (const auto& [letter, scale] : kSuffixes) {
    const std::string text = FixedText(quantity.value / scale) + letter;
    // An amount up to 1 needs a suffix too: without one it would read back as a fraction.
    const bool fits = quantity.value >= scale || (letter == 'k' && quantity.value <= 1);
    if (fits && text.size() <= 9 && ParseQuantity(text) == quantity) return text;
  }
  return ShortestText(quantity.value);
}

Schema& Schema::Add(std::string name, bool* target, std::string doc) {
  fields_.push_back({.name = std::move(name), .target = target, .doc = std::move(doc)});
  return *this;
}
Schema& Schema::Add(std::string name, int64_t* target, std::string doc, IntRange range) {
  fields_.push_back(
      {.name = std::move(name), .target = target, .doc = std::move(doc), .int_range = range});
  return *this;
}
Schema& Schema::Add(std::string name, double* target, std::string doc, RealRange range) {
  fields_.push_back(
      {.name = std::move(name), .target = target, .doc = std::move(doc), .real_range = range});
  return *this;
}
Schema& Schema::Add(std::string name, std::string* target, std::string doc,
                    std::vector<std::string> choices) {
  fields_.push_back({.name = std::move(name),
                     .target = target,
                     .doc = std::move(doc),
                     .choices = std::move(choices)});
  return *this;
}
Schema& Schema::Add(std::string name, std::vector<int64_t>* target, std::string doc) {
  fields_.push_back({.name = std::move(name), .target = target, .doc = std::move(doc)});
  return *this;
}
Schema& Schema::Add(std::string name, std::vector<double>* target, std::string doc) {
  fields_.push_back({.name = std::move(name), .target = target, .doc = std::move(doc)});
  return *this;
}
Schema& Schema::Add(std::string name, std::vector<std::string>* target, std::string doc) {
  fields_.push_back({.name = std::move(name), .target = target, .doc = std::move(doc)});
  return *this;
}
Schema& Schema::Add(std::string name, std::optional<Quantity>* target, std::string doc) {
  fields_.push_back({.name = std::move(name), .target = target, .doc = std::move(doc)});
  return *this;
}

std::string TypeName(const Field& field) {
  // In the order of FieldTarget's alternatives.
  static constexpr const char* kNames[] = {
      "boolean",          "integer",         "number",          "string",
      "list of integers", "list of numbers", "list of strings", "fraction or amount"};
  static_assert(std::size(kNames) == std::variant_size_v<FieldTarget>);
  return kNames[field.target.index()];
}

std::string CurrentValue(const Field& field) {
  return std::visit([](const auto* target) { return TomlText(*target); }, field.target);
}

std::string RangeText(const Field& field) {
  if (!field.choices.empty()) {
    std::string text = "one of ";
    for (size_t i = 0; i < field.choices.size(); ++i) text += (i ? ", " : "") + field.choices[i];
    return text;
  }
  if (std::holds_alternative<int64_t*>(field.target)) {
    using Limits = std::numeric_limits<int64_t>;
    return BoundsText<IntRange, int64_t>(field.int_range, Limits::min(), Limits::max(), false,
                                         false, TomlText);
  }
  if (std::holds_alternative<double*>(field.target)) {
    const double infinity = std::numeric_limits<double>::infinity();
    return BoundsText<RealRange, double>(field.real_range, -infinity, infinity,
                                         field.real_range.open_low, field.real_range.open_high,
                                         ShortestText);
  }
  return "";
}

std::string DumpToml(const std::string& section_name, const Schema& schema,
                     const ConfigSection& origins) {
  std::string text = Str("[", section_name, "]\n");
  const auto line = [&](const std::string& name, const std::string& value) {
    text += Str(name, " = ", value, "  # ", origins.Origin(name), "\n");
  };
  // The registry's key belongs to no schema, but without it the dump could not be read back.
  const bool has_name = std::any_of(schema.fields().begin(), schema.fields().end(),
                                    [](const Field& field) { return field.name == "name"; });
  if (!has_name && origins.Has("name")) line("name", TomlText(*origins.GetString("name")));
  for (const Field& field : schema.fields()) {
    const std::string value = CurrentValue(field);
    if (value.empty())
      text += Str("# ", field.name, " is not set\n");
    else
      line(field.name, value);
  }
  return text;
}

}  // namespace espalier
