#include "env/graph/script_item.h"

#include <ATen/ATen.h>
#include <ATen/core/jit_type.h>

#include "env/base/error.h"

namespace espalier::script {
namespace {

constexpr int kMaxDepth = 64;

Item ItemAt(const c10::IValue& value, int depth) {
  if (depth > kMaxDepth)
    throw Error(ErrorKind::kModel, Str("lists are nested deeper than ", kMaxDepth));
  if (value.isTensor() && !value.toTensor().defined()) return Item(c10::IValue());
  std::vector<Item> items;
  if (value.isList()) {
    for (const c10::IValue& item : value.toListRef()) items.push_back(ItemAt(item, depth + 1));
    return MakeList(std::move(items), value.toList().elementType());
  }
  if (value.isTuple()) {
    for (const c10::IValue& item : value.toTupleRef().elements())
      items.push_back(ItemAt(item, depth + 1));
    return MakeList(std::move(items), nullptr);
  }
  if (value.isGenericDict()) {
    DictItem dict{std::make_shared<std::vector<std::pair<c10::IValue, Item>>>()};
    for (const auto& entry : value.toGenericDict())
      dict.items->emplace_back(entry.key(), ItemAt(entry.value(), depth + 1));
    return dict;
  }
  return Item(value);
}

template <typename Test>
bool AnyLeaf(const Item& item, const Test& test) {
  if (const auto* list = As<ListItem>(item)) {
    for (const Item& part : *list->items)
      if (AnyLeaf(part, test)) return true;
    return false;
  }
  if (const auto* dict = As<DictItem>(item)) {
    for (const auto& [key, part] : *dict->items)
      if (AnyLeaf(part, test)) return true;
    return false;
  }
  return test(item);
}

/// A typed list: operators look at the element type, also of an empty one.
std::optional<c10::IValue> ListAt(const ListItem& list, size_t probe) {
  std::vector<c10::IValue> values;
  for (const Item& item : *list.items) {
    auto value = ValueAt(item, probe);
    if (!value) return std::nullopt;
    values.push_back(std::move(*value));
  }
  if (!list.element) return c10::ivalue::Tuple::create(std::move(values));
  c10::impl::GenericList typed(list.element);
  for (c10::IValue& value : values) typed.push_back(std::move(value));
  return typed;
}

}  // namespace

ListItem MakeList(std::vector<Item> items, c10::TypePtr element) {
  return {std::make_shared<std::vector<Item>>(std::move(items)), std::move(element)};
}

Item ItemOf(const c10::IValue& value) { return ItemAt(value, 0); }

std::optional<c10::IValue> ValueAt(const Item& item, size_t probe) {
  if (const auto* constant = As<c10::IValue>(item)) return *constant;
  if (const auto* tensor = As<TensorItem>(item)) return tensor->probe[probe];
  if (const auto* size = As<SizeItem>(item)) {
    if (size->as_tensor) return at::scalar_tensor(size->at[probe], at::kLong);
    return size->at[probe];
  }
  if (const auto* list = As<ListItem>(item)) return ListAt(*list, probe);
  const auto* dict = As<DictItem>(item);
  if (!dict || dict->items->empty()) return std::nullopt;
  std::optional<c10::impl::GenericDict> values;
  for (const auto& [key, part] : *dict->items) {
    const auto value = ValueAt(part, probe);
    if (!value) return std::nullopt;
    if (!values) values.emplace(key.type(), value->type());
    values->insert_or_assign(key, *value);
  }
  return *values;
}

bool HasTensor(const Item& item) {
  return AnyLeaf(item, [](const Item& leaf) { return As<TensorItem>(leaf) != nullptr; });
}
bool HasSize(const Item& item) {
  return AnyLeaf(item, [](const Item& leaf) { return As<SizeItem>(leaf) != nullptr; });
}

}  // namespace espalier::script
