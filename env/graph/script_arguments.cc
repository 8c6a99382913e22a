#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>
#include <ATen/core/jit_type.h>

#include <cmath>

#include "env/base/error.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/script_assembler.h"

/// Arguments of TorchScript as arguments of an Op, and their values at both probes.
namespace espalier::script {
namespace {

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

}  // namespace

std::variant<int64_t, SizeItem> IntOf(const Item& item) {
  if (const auto* size = As<SizeItem>(item)) return *size;
  const auto* constant = As<c10::IValue>(item);
  if (constant && constant->isInt()) return constant->toInt();
  if (constant && constant->isDouble()) {
    const double number = constant->toDouble();
    if (number == std::floor(number)) return static_cast<int64_t>(number);
  }
  if (constant && constant->isTensor() && constant->toTensor().numel() == 1) {
    const at::Scalar number = constant->toTensor().item();
    if (number.to<double>() == std::floor(number.to<double>())) return number.to<int64_t>();
  }
  Fail("a size that follows the batch meets something that is no whole number");
}

Assembler::Resolved Assembler::ResolveTensor(const Item& item, const Place& place) {
  if (const auto* tensor = As<TensorItem>(item))
    return {tensor->id, {tensor->probe[0], tensor->probe[1]}};
  if (const auto* size = As<SizeItem>(item)) {
    static const auto kScalarTensor = FindOperator("aten::scalar_tensor", "");
    SizeItem number = *size;
    number.as_tensor = false;
    const auto made = Call(kScalarTensor,
                           {number, c10::IValue(static_cast<int64_t>(at::kLong)), c10::IValue(),
                            c10::IValue(), c10::IValue()},
                           place);
    return ResolveTensor(made.front(), place);
  }
  const auto* constant = As<c10::IValue>(item);
  if (!constant) Fail("a tensor is expected");
  if (constant->isNone()) return {*constant, {*constant, *constant}};
  if (constant->isTensor()) return ResolveTensor(Constant(constant->toTensor()), place);
  if (!constant->isScalar()) Fail("a tensor is expected, not ", constant->tagKind());
  const c10::IValue number = at::native::wrapped_scalar_tensor(constant->toScalar());
  return {number, {number, number}};
}

Assembler::Resolved Assembler::ResolveTensors(const ListItem& list, const c10::Argument& argument,
                                              const Place& place) {
  ValueList ids;
  Resolved resolved;
  const auto type = argument.type()->cast<c10::OptionalType>();
  const auto list_type = (type ? type->getElementType() : argument.type())->expect<c10::ListType>();
  std::array<c10::impl::GenericList, 2> tensors = {
      c10::impl::GenericList(list_type->getElementType()),
      c10::impl::GenericList(list_type->getElementType())};
  for (const Item& item : *list.items) {
    const Resolved element = ResolveTensor(item, place);
    if (const auto* id = std::get_if<ValueId>(&element.arg))
      ids.ids.push_back(*id);
    else if (element.at[0].isNone())
      ids.ids.push_back(kNoValue);
    else
      Fail("argument '", argument.name(), "': a number stands among tensors");
    for (size_t probe = 0; probe < 2; ++probe) tensors[probe].push_back(element.at[probe]);
  }
  for (size_t probe = 0; probe < 2; ++probe) resolved.at[probe] = tensors[probe];
  resolved.arg = std::move(ids);
  return resolved;
}

Assembler::Resolved Assembler::ResolveSizes(const ListItem& list, const Place&) {
  ScalarList sizes;
  std::array<std::vector<int64_t>, 2> at;
  for (const Item& item : *list.items) {
    const auto number = IntOf(item);
    if (const auto* size = std::get_if<SizeItem>(&number)) {
      sizes.items.emplace_back(size->id);
      for (size_t probe = 0; probe < 2; ++probe) at[probe].push_back(size->at[probe]);
    } else {
      sizes.items.emplace_back(std::get<int64_t>(number));
      for (auto& values : at) values.push_back(std::get<int64_t>(number));
    }
  }
  return {std::move(sizes), {at[0], at[1]}};
}

/// `dtype`: of the tensors with axes among the arguments; Undefined when there are none.
Assembler::Resolved Assembler::Resolve(const c10::OperatorHandle& handle, size_t index,
                                       const Item& item, at::ScalarType dtype, const Place& place) {
  const c10::Argument& argument = handle.schema().arguments()[index];
  const auto kind = pt2::BareKind(argument.type());
  const auto* constant = As<c10::IValue>(item);
  const auto* list = As<ListItem>(item);
  if (kind == c10::TypeKind::TensorType) {
    // Python numbers: traced as 0-d tensors, written by torch.export as numbers. They compute the
    // same next to a tensor with axes whose kind of number is no narrower.
    if (constant && constant->isTensor() && constant->toTensor().dim() == 0 &&
        argument.name() == "other" && dtype != at::ScalarType::Undefined &&
        (at::isFloatingType(dtype) ||
         (at::isIntegralType(dtype, false) &&
          at::isIntegralType(constant->toTensor().scalar_type(), true))))
      return ResolveTensor(c10::IValue(constant->toTensor().item()), place);
    return ResolveTensor(item, place);
  }
  if (pt2::TakesTensorList(argument) && list) return ResolveTensors(*list, argument, place);
  if (const auto* size = As<SizeItem>(item)) {
    if (kind != c10::TypeKind::IntType && kind != c10::TypeKind::NumberType)
      Fail("argument '", argument.name(),
           "': a size that follows the batch stands where the schema takes ",
           argument.type()->str());
    return {size->id, {size->at[0], size->at[1]}};
  }
  if (list && HasSize(item)) return ResolveSizes(*list, place);
  const auto value = ValueAt(item, 0);
  if (!value || HasTensor(item))
    Fail("argument '", argument.name(), "' is no constant; the schema takes ",
         argument.type()->str());
  c10::IValue adapted = *value;
  if (kind == c10::TypeKind::FloatType && adapted.isInt())
    adapted = static_cast<double>(adapted.toInt());
  if (list) {
    const auto optional = argument.type()->cast<c10::OptionalType>();
    const auto type =
        (optional ? optional->getElementType() : argument.type())->cast<c10::ListType>();
    if (type &&
        (list->items->empty() || type->getElementType()->kind() == c10::TypeKind::FloatType)) {
      c10::impl::GenericList typed(type->getElementType());
      for (const c10::IValue& part : value->toListRef())
        typed.push_back(part.isInt() ? c10::IValue(static_cast<double>(part.toInt())) : part);
      adapted = typed;
    }
  }
  if (!adapted.type()->isSubtypeOf(*argument.type()))
    Fail("argument '", argument.name(), "' is ", adapted.type()->str(), ", the schema takes ",
         argument.type()->str());
  return {adapted, {adapted, adapted}};
}

}  // namespace espalier::script
