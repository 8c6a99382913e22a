#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/graph/script_operators.h"

/// Python's lists, tuples and dicts.
namespace espalier::script {
namespace {

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

int64_t Position(int64_t index, size_t size) {
  const int64_t position = index < 0 ? index + static_cast<int64_t>(size) : index;
  if (position < 0 || position >= static_cast<int64_t>(size))
    Fail("index ", index, " of a list of ", size);
  return position;
}

Item DictMethod(const std::string& name, const DictItem& dict, const std::vector<Item>& inputs) {
  auto& items = *dict.items;
  std::vector<Item> list;
  if (name == "aten::keys")
    for (const auto& [key, value] : items) list.push_back(ItemOf(key));
  if (name == "aten::values")
    for (const auto& [key, value] : items) list.push_back(value);
  if (name == "aten::items")
    for (const auto& [key, value] : items) list.push_back(MakeList({ItemOf(key), value}, nullptr));
  if (name == "aten::keys" || name == "aten::values" || name == "aten::items")
    return MakeList(std::move(list), c10::AnyType::get());
  if (name == "aten::len") return c10::IValue(static_cast<int64_t>(items.size()));
  const auto* key = inputs.size() > 1 ? As<c10::IValue>(inputs[1]) : nullptr;
  if (!key) Fail("a key of a dict is no constant");
  const auto found = std::find_if(items.begin(), items.end(),
                                  [&](const auto& entry) { return entry.first == *key; });
  if (name == "aten::__contains__") return c10::IValue(found != items.end());
  if (name == "aten::_set_item") {
    if (found != items.end())
      found->second = inputs.at(2);
    else
      items.emplace_back(*key, inputs.at(2));
    return c10::IValue();
  }
  if (found == items.end()) {
    if (name == "aten::get") return inputs.size() > 2 ? inputs[2] : Item(c10::IValue());
    Fail("a dict has no key ", key->isString() ? key->toStringRef() : "like this");
  }
  return found->second;
}

Item SliceOf(const ListItem& list, const std::vector<Item>& inputs) {
  const auto size = static_cast<int64_t>(list.items->size());
  const auto bound = [&](size_t i, int64_t fallback) {
    if (inputs.size() <= i || IsNone(inputs[i])) return fallback;
    const int64_t at = ConstantInt(inputs[i]);
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  const int64_t begin = bound(1, 0), end = bound(2, size);
  const int64_t step = inputs.size() > 3 ? ConstantInt(inputs[3]) : 1;
  if (step < 1) Fail("a list is sliced with step ", step);
  std::vector<Item> part;
  for (int64_t i = begin; i < end; i += std::min(step, size))
    part.push_back((*list.items)[static_cast<size_t>(i)]);
  return MakeList(std::move(part), list.element);
}

}  // namespace

std::optional<Item> RunOnList(const std::string& name, const std::vector<Item>& inputs) {
  if (inputs.empty()) return std::nullopt;
  if (name == "prim::unchecked_cast" || name == "prim::unchecked_unwrap_optional" ||
      name == "aten::_unwrap_optional")
    return inputs[0];
  if (name == "aten::__is__" || name == "aten::__isnot__") {
    const bool a = IsNone(inputs[0]), b = IsNone(inputs.at(1));
    if (!a && !b) return std::nullopt;
    return c10::IValue((a == b) == (name == "aten::__is__"));
  }
  static const std::set<std::string> kDictMethods = {
      "aten::keys", "aten::values",       "aten::items",     "aten::len",
      "aten::get",  "aten::__contains__", "aten::_set_item", "aten::__getitem__"};
  if (const auto* dict = As<DictItem>(inputs[0]))
    return kDictMethods.contains(name) ? std::optional(DictMethod(name, *dict, inputs))
                                       : std::nullopt;
  const auto* list = As<ListItem>(inputs[0]);
  if (!list) return std::nullopt;
  auto& items = *list->items;
  const auto* other = inputs.size() > 1 ? As<ListItem>(inputs[1]) : nullptr;
  if (name == "aten::len") return c10::IValue(static_cast<int64_t>(items.size()));
  if (name == "aten::__getitem__" || name == "prim::TupleIndex")
    return items[static_cast<size_t>(Position(ConstantInt(inputs.at(1)), items.size()))];
  if (name == "aten::append") {
    items.push_back(inputs.at(1));
    return inputs[0];
  }
  if (name == "aten::extend" && other) {
    items.insert(items.end(), other->items->begin(), other->items->end());
    return c10::IValue();
  }
  if (name == "aten::insert") {
    const auto size = static_cast<int64_t>(items.size());
    const int64_t at = ConstantInt(inputs.at(1));
    items.insert(items.begin() + std::clamp<int64_t>(at < 0 ? at + size : at, 0, size),
                 inputs.at(2));
    return c10::IValue();
  }
  if (name == "aten::pop") {
    const int64_t at = inputs.size() > 1 ? ConstantInt(inputs[1]) : -1;
    const auto place = items.begin() + Position(at, items.size());
    Item popped = *place;
    items.erase(place);
    return popped;
  }
  if (name == "aten::_set_item") {
    items[static_cast<size_t>(Position(ConstantInt(inputs.at(1)), items.size()))] = inputs.at(2);
    return inputs[0];
  }
  if (name == "aten::slice") return SliceOf(*list, inputs);
  if (name == "aten::list" || name == "aten::copy") return MakeList(items, list->element);
  if (name == "aten::add" && other) {
    std::vector<Item> both = items;
    both.insert(both.end(), other->items->begin(), other->items->end());
    return MakeList(std::move(both), list->element);
  }
  return std::nullopt;
}

}  // namespace espalier::script
