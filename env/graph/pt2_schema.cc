#include "env/graph/pt2_schema.h"

#include <array>
#include <utility>

#include "env/base/error.h"

namespace espalier::pt2 {
namespace {

template <typename T, size_t kCount>
using Table = std::array<std::pair<int64_t, T>, kCount>;

constexpr Table<at::ScalarType, 14> kDtypes = {{{1, at::kByte},
                                                {2, at::kChar},
                                                {3, at::kShort},
                                                {4, at::kInt},
                                                {5, at::kLong},
                                                {6, at::kHalf},
                                                {7, at::kFloat},
                                                {8, at::kDouble},
                                                {10, at::kComplexFloat},
                                                {12, at::kBool},
                                                {13, at::kBFloat16},
                                                {28, at::kUInt16},
                                                {34, at::kUInt32},
                                                {35, at::kUInt64}}};
constexpr Table<at::Layout, 1> kLayouts = {{{7, at::kStrided}}};
constexpr Table<at::MemoryFormat, 4> kMemoryFormats = {{{1, at::MemoryFormat::Contiguous},
                                                        {2, at::MemoryFormat::ChannelsLast},
                                                        {3, at::MemoryFormat::ChannelsLast3d},
                                                        {4, at::MemoryFormat::Preserve}}};

template <typename T, size_t kCount>
std::optional<int64_t> NumberIn(const Table<T, kCount>& table, T value) {
  for (const auto& [number, known] : table)
    if (known == value) return number;
  return std::nullopt;
}

template <typename T, size_t kCount>
std::optional<T> ValueIn(const Table<T, kCount>& table, int64_t number) {
  for (const auto& [known, value] : table)
    if (known == number) return value;
  return std::nullopt;
}

constexpr std::string_view kTorchOps = "torch.ops.";
constexpr std::string_view kSymbolNamespace = "espalier_sym::";
constexpr std::string_view kPythonOperator = "_operator.";
constexpr std::string_view kTorchSymbol = "torch.sym_";

[[noreturn]] void ThrowUnknownTarget(const std::string& target) {
  throw Error(ErrorKind::kModel, Str("LibTorch has no operator for the target '", target, "'"),
              target.starts_with("torch.ops.higher_order.")
                  ? "sub-graphs (control flow, checkpointing) are not supported"
                  : "custom operators must be linked into this program");
}

}  // namespace

std::optional<int64_t> DtypeNumber(at::ScalarType dtype) { return NumberIn(kDtypes, dtype); }
std::optional<at::ScalarType> DtypeOf(int64_t number) { return ValueIn(kDtypes, number); }
std::optional<int64_t> LayoutNumber(at::Layout layout) { return NumberIn(kLayouts, layout); }
std::optional<at::Layout> LayoutOf(int64_t number) { return ValueIn(kLayouts, number); }
std::optional<int64_t> MemoryFormatNumber(at::MemoryFormat format) {
  return NumberIn(kMemoryFormats, format);
}
std::optional<at::MemoryFormat> MemoryFormatOf(int64_t number) {
  return ValueIn(kMemoryFormats, number);
}

c10::OperatorHandle OperatorOf(const std::string& target) {
  std::string name, overload;
  if (target.starts_with(kPythonOperator)) {
    name = Str(kSymbolNamespace, target.substr(kPythonOperator.size()));
  } else if (target.starts_with(kTorchSymbol)) {
    name = Str(kSymbolNamespace, target.substr(std::string_view("torch.").size()));
  } else {
    if (!target.starts_with(kTorchOps)) ThrowUnknownTarget(target);
    const std::string path = target.substr(kTorchOps.size());  // "aten.add.Tensor"
    const size_t first = path.find('.');
    const size_t last = path.rfind('.');
    if (first == std::string::npos || first == last) ThrowUnknownTarget(target);
    name = Str(path.substr(0, first), "::", path.substr(first + 1, last - first - 1));
    overload = path.substr(last + 1);
    if (overload == "default") overload.clear();
  }
  const auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!found) ThrowUnknownTarget(target);
  return *found;
}

std::string TargetOf(const Op& op) {
  const auto& name = op.handle.operator_name();
  if (IsSymbolArithmetic(op)) {
    const std::string function = name.name.substr(kSymbolNamespace.size());
    return function.starts_with("sym_") ? "torch." + function : Str(kPythonOperator, function);
  }
  const size_t colons = name.name.find("::");
  return Str(kTorchOps, name.name.substr(0, colons), '.', name.name.substr(colons + 2), '.',
             name.overload_name.empty() ? "default" : name.overload_name);
}

bool IsSymbolArithmetic(const Op& op) {
  return op.handle.operator_name().name.starts_with(kSymbolNamespace);
}

bool ReturnsInt(const Op& op) {
  const auto& returns = op.handle.schema().returns();
  return returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::IntType;
}

}  // namespace espalier::pt2
