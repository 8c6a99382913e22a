#include "env/graph/size_expression.h"

#include <algorithm>
#include <cctype>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr int kDepth = 64;
constexpr size_t kLength = 1 << 16;

struct Node {
  std::string name;  ///< function, symbol, or "" for a number
  bool is_symbol = false;
  int64_t number = 0;
  std::vector<Node> arguments;
};

/// Function(argument, ...), Symbol('name', ...), Integer(3), or a bare name or number.
class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  std::optional<Node> Parse() {
    Node node;
    if (text_.size() > kLength || !Expression(node, 0)) return std::nullopt;
    Blank();
    if (at_ != text_.size()) return std::nullopt;
    return node;
  }

 private:
  void Blank() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool Take(char c) {
    Blank();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string Word() {
    Blank();
    const size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_'))
      ++at_;
    return text_.substr(begin, at_ - begin);
  }
  bool Number(Node& node) {
    Blank();
    const size_t begin = at_;
    if (at_ < text_.size() && text_[at_] == '-') ++at_;
    while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]))) ++at_;
    if (at_ - begin > 18 || at_ == begin || text_[at_ - 1] == '-') return false;
    node.number = std::stoll(text_.substr(begin, at_ - begin));
    return true;
  }

  bool Expression(Node& node, int depth) {
    Blank();
    if (depth > kDepth || at_ >= text_.size()) return false;
    if (text_[at_] == '-' || std::isdigit(static_cast<unsigned char>(text_[at_])))
      return Number(node);
    node.name = Word();
    if (node.name.empty()) return false;
    if (!Take('(')) {
      node.is_symbol = true;
      return true;
    }
    if (node.name == "Integer") {
      node.name.clear();
      return Number(node) && Take(')');
    }
    if (node.name == "Symbol") return SymbolName(node);
    do {
      node.arguments.emplace_back();
      if (!Expression(node.arguments.back(), depth + 1)) return false;
    } while (Take(','));
    return Take(')');
  }

  /// 'name', assumptions...)
  bool SymbolName(Node& node) {
    if (!Take('\'')) return false;
    node.name = Word();
    node.is_symbol = true;
    const size_t end = text_.find(')', at_);
    if (node.name.empty() || end == std::string::npos) return false;
    at_ = end + 1;
    return true;
  }

  const std::string& text_;
  size_t at_ = 0;
};

void Collect(const Node& node, std::vector<std::string>& names) {
  if (node.is_symbol && std::find(names.begin(), names.end(), node.name) == names.end())
    names.push_back(node.name);
  for (const Node& argument : node.arguments) Collect(argument, names);
}

std::optional<int64_t> FloorDivided(int64_t a, int64_t b) {
  if (b == 0 || (a == INT64_MIN && b == -1)) return std::nullopt;
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

std::optional<int64_t> Combined(const std::string& function, int64_t a, int64_t b) {
  int64_t result = 0;
  if (function == "Add")
    return __builtin_add_overflow(a, b, &result) ? std::nullopt : std::optional(result);
  if (function == "Mul")
    return __builtin_mul_overflow(a, b, &result) ? std::nullopt : std::optional(result);
  if (function == "FloorDiv" || function == "CleanDiv") return FloorDivided(a, b);
  if (function == "Mod" || function == "PythonMod") {
    const auto quotient = FloorDivided(a, b);
    return quotient ? std::optional(a - *quotient * b) : std::nullopt;
  }
  if (function == "Min") return std::min(a, b);
  if (function == "Max") return std::max(a, b);
  if (function == "Pow" && b >= 0 && b <= 62) {
    result = 1;
    for (int64_t i = 0; i < b; ++i)
      if (__builtin_mul_overflow(result, a, &result)) return std::nullopt;
    return result;
  }
  return std::nullopt;
}

std::optional<int64_t> ValueOf(const Node& node, const SymbolValues& values) {
  if (node.is_symbol) {
    const auto known = values.find(node.name);
    return known == values.end() ? std::nullopt : std::optional(known->second);
  }
  if (node.arguments.empty()) return node.name.empty() ? std::optional(node.number) : std::nullopt;
  auto result = ValueOf(node.arguments.front(), values);
  for (size_t i = 1; result && i < node.arguments.size(); ++i) {
    const auto next = ValueOf(node.arguments[i], values);
    result = next ? Combined(node.name, *result, *next) : std::nullopt;
  }
  return result;
}

}  // namespace

std::vector<std::string> SymbolsIn(const std::string& expression) {
  std::vector<std::string> names;
  if (const auto node = Parser(expression).Parse()) Collect(*node, names);
  return names;
}

std::optional<int64_t> Evaluate(const std::string& expression, const SymbolValues& values) {
  const auto node = Parser(expression).Parse();
  return node ? ValueOf(*node, values) : std::nullopt;
}

std::string Rescaled(const std::string& expression, int64_t value, int64_t wanted) {
  if (value <= 0 || wanted <= 0) return expression;
  constexpr std::string_view kFactor = "Mul(Integer(";
  if (expression.starts_with(kFactor)) {
    const size_t end = expression.find(')', kFactor.size());
    const auto factor = Evaluate(expression.substr(kFactor.size(), end - kFactor.size()), {});
    int64_t scaled = 0;
    if (factor && !__builtin_mul_overflow(*factor, wanted, &scaled) && scaled % value == 0)
      return Str(kFactor, scaled / value, expression.substr(end));
  }
  if (wanted % value == 0) return Str("Mul(Integer(", wanted / value, "), ", expression, ")");
  return Str("FloorDiv(Mul(Integer(", wanted, "), ", expression, "), Integer(", value, "))");
}

}  // namespace espalier
