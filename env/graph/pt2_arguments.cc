#include "env/graph/pt2_arguments.h"

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>
#include <ATen/core/jit_type.h>

#include <cmath>

#include "env/base/error.h"
#include "env/graph/checked_json.h"
#include "env/graph/pt2_schema.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// The schema's type without Optional; dtypes and the like keep their own kind.
c10::TypePtr BareType(const c10::Argument& argument) {
  const c10::TypePtr type = argument.real_type();
  const auto optional = type->cast<c10::OptionalType>();
  return optional ? optional->getElementType() : type;
}

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

template <typename T>
int64_t NumberOr(const std::optional<T>& number, const char* what, int64_t value) {
  if (!number) Fail(what, " ", value, " has no number in the archive format");
  return static_cast<int64_t>(*number);
}

/// JSON has no infinities: torch writes them as text.
ordered_json FloatJson(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

double FloatOf(const json& value) {
  if (value.is_number()) return value.get<double>();
  if (value == "Infinity") return std::numeric_limits<double>::infinity();
  if (value == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (value == "NaN") return std::numeric_limits<double>::quiet_NaN();
  Fail("a number is expected, not ", value.dump());
}

template <typename Read>
auto ListOf(const json& value, const Read& read) {
  if (!value.is_array()) Fail("a list is expected, not ", value.dump());
  c10::List<std::decay_t<decltype(read(value))>> list;
  for (const json& item : value) list.push_back(read(item));
  return list;
}

c10::IValue DeviceOf(const json& value) {
  if (!value.is_object() || !value.contains("type"))
    Fail("a device is expected, not ", value.dump());
  std::string text = TextOf(value["type"]);
  if (value.contains("index") && !value["index"].is_null()) text += Str(':', IntOf(value["index"]));
  try {
    return c10::Device(text);
  } catch (const c10::Error&) {
    Fail("unknown device '", text, "'");
  }
}

template <typename T>
c10::IValue EnumOf(std::optional<T> found, const char* what, const json& value) {
  if (!found) Fail("unknown ", what, " ", value.dump());
  return static_cast<int64_t>(*found);
}

/// What the union says, before the schema is asked.
std::optional<c10::IValue> Parse(const std::string& kind, const json& value) {
  if (kind == "as_none") return c10::IValue();
  if (kind == "as_int") return IntOf(value);
  if (kind == "as_ints") return ListOf(value, IntOf);
  if (kind == "as_float") return FloatOf(value);
  if (kind == "as_floats") return ListOf(value, FloatOf);
  if (kind == "as_bool") return BoolOf(value);
  if (kind == "as_bools") return ListOf(value, BoolOf);
  if (kind == "as_string") return TextOf(value);
  if (kind == "as_strings") return ListOf(value, TextOf);
  if (kind == "as_device") return DeviceOf(value);
  if (kind == "as_scalar_type") return EnumOf(DtypeOf(IntOf(value)), "dtype", value);
  if (kind == "as_layout") return EnumOf(LayoutOf(IntOf(value)), "layout", value);
  if (kind == "as_memory_format")
    return EnumOf(MemoryFormatOf(IntOf(value)), "memory format", value);
  if (kind == "as_complex") {
    if (!value.is_object() || !value.contains("real") || !value.contains("imag"))
      Fail("a complex number is expected, not ", value.dump());
    return c10::IValue(c10::complex<double>(FloatOf(value["real"]), FloatOf(value["imag"])));
  }
  for (const char* named : {"as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors",
                            "as_sym_int", "as_sym_ints"})
    if (kind == named) return std::nullopt;
  Fail("arguments of kind '", kind, "' are not supported");
}

/// Python is lax where schemas are strict: ints for floats, one number for a list or a tensor.
c10::IValue Adapt(const c10::Argument& argument, c10::IValue value) {
  const c10::TypePtr type = BareType(argument);
  if (type->kind() == c10::TypeKind::FloatType && value.isInt())
    return static_cast<double>(value.toInt());
  if (type->kind() == c10::TypeKind::TensorType && value.isScalar())  // x * 0.5 as mul.Tensor
    return at::native::wrapped_scalar_tensor(value.toScalar());
  const auto list = type->cast<c10::ListType>();
  if (!list) return value;
  const auto element = list->getElementType()->kind();
  const auto count = static_cast<size_t>(argument.N().value_or(1));
  if (value.isInt()) value = c10::IValue(std::vector<int64_t>(count, value.toInt()));
  if (value.isDouble()) value = c10::IValue(std::vector<double>(count, value.toDouble()));
  if (element == c10::TypeKind::FloatType && value.isIntList()) {
    const std::vector<int64_t> ints = value.toIntVector();
    return c10::IValue(std::vector<double>(ints.begin(), ints.end()));
  }
  if (value.isList() && value.toListRef().empty() && element == c10::TypeKind::FloatType)
    return c10::IValue(std::vector<double>());
  return value;
}

ordered_json NumberJson(const c10::IValue& value) {
  if (value.isInt()) return {{"as_int", value.toInt()}};
  if (value.isBool()) return {{"as_bool", value.toBool()}};
  if (value.isDouble()) return {{"as_float", FloatJson(value.toDouble())}};
  if (value.isComplexDouble()) {
    const auto complex = value.toComplexDouble();
    return {
        {"as_complex", {{"real", FloatJson(complex.real())}, {"imag", FloatJson(complex.imag())}}}};
  }
  Fail("constants of type ", value.tagKind(), " are not supported");
}

ordered_json ListJson(const c10::IValue& value) {
  if (value.isIntList()) return {{"as_ints", value.toIntVector()}};
  if (value.isTensorList() && value.toTensorVector().empty())
    return {{"as_tensors", ordered_json::array()}};
  ordered_json items = ordered_json::array();
  if (value.isDoubleList()) {
    for (const double item : value.toDoubleVector()) items.push_back(FloatJson(item));
    return {{"as_floats", items}};
  }
  if (value.isBoolList()) {
    for (const bool item : value.toBoolList()) items.push_back(item);
    return {{"as_bools", items}};
  }
  Fail("constant lists of type ", value.type()->str(), " are not supported");
}

}  // namespace

const std::string& KeyOf(const json& item) {
  if (!item.is_object() || item.size() != 1)
    Fail("a union with one key is expected, not ", item.dump().substr(0, 100));
  return item.get_ref<const json::object_t&>().begin()->first;
}

c10::TypeKind BareKind(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  return (optional ? optional->getElementType() : type)->kind();
}

bool TakesTensorList(const c10::Argument& argument) {
  const auto optional = argument.type()->cast<c10::OptionalType>();
  const auto list =
      (optional ? optional->getElementType() : argument.type())->cast<c10::ListType>();
  return list && BareKind(list->getElementType()) == c10::TypeKind::TensorType;
}

ordered_json ConstantJson(const c10::Argument& argument, const c10::IValue& value) {
  if (value.isNone()) return {{"as_none", true}};
  switch (BareType(argument)->kind()) {
    case c10::TypeKind::ScalarTypeType:
      return {
          {"as_scalar_type", NumberOr(DtypeNumber(value.toScalarType()), "dtype", value.toInt())}};
    case c10::TypeKind::LayoutType:
      return {{"as_layout", NumberOr(LayoutNumber(value.toLayout()), "layout", value.toInt())}};
    case c10::TypeKind::MemoryFormatType:
      return {{"as_memory_format", NumberOr(MemoryFormatNumber(value.toMemoryFormat()),
                                            "memory format", value.toInt())}};
    default:
      break;
  }
  if (value.isDevice()) {
    const c10::Device device = value.toDevice();
    ordered_json index;  // null
    if (device.has_index()) index = device.index();
    return {
        {"as_device",
         {{"type", c10::DeviceTypeName(device.type(), /*lower_case=*/true)}, {"index", index}}}};
  }
  if (value.isString()) return {{"as_string", value.toStringRef()}};
  if (value.isTensor() && value.toTensor().unsafeGetTensorImpl()->is_wrapped_number())
    return NumberJson(c10::IValue(value.toTensor().item()));
  return value.isList() ? ListJson(value) : NumberJson(value);
}

std::optional<c10::IValue> ConstantOf(const c10::Argument& argument, const json& value) {
  const std::string& kind = KeyOf(value);
  std::optional<c10::IValue> constant = Parse(kind, value.at(kind));
  if (!constant) return std::nullopt;
  c10::IValue adapted = Adapt(argument, std::move(*constant));
  const bool is_number = BareType(argument)->kind() == c10::TypeKind::NumberType;
  if (!(is_number && adapted.isBool()) && !adapted.type()->isSubtypeOf(*argument.type()))
    Fail("it is ", adapted.type()->str(), ", the schema takes ", argument.type()->str());
  return adapted;
}

}  // namespace espalier::pt2
