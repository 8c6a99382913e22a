#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier {

/// Sizes that an exporter left open, in sympy's printed form as torch.export archives hold them:
/// "Mul(Integer(2), Symbol('s77', positive=True, integer=True))".
using SymbolValues = std::map<std::string, int64_t>;

/// Names of the symbols, each once, in order of appearance. Empty for text that is no expression.
std::vector<std::string> SymbolsIn(const std::string& expression);

/// Its value; nothing for functions other than Add, Mul, Pow, FloorDiv, CleanDiv, Mod, PythonMod,
/// Min and Max, for unknown symbols, on overflow and for text that is no expression.
std::optional<int64_t> Evaluate(const std::string& expression, const SymbolValues& values);

/// The same expression times wanted / value: the leading integer factor changes where that is
/// exact, as when the channels that are folded into a dynamic axis get fewer.
std::string Rescaled(const std::string& expression, int64_t value, int64_t wanted);

}  // namespace espalier
