#pragma once

#include <ATen/core/ivalue.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "env/base/tensor.h"
#include "env/graph/network.h"

/// What a TorchScript value is while its graph is turned into a Network: a tensor of the Network, a
/// size that follows the batch, or a Python object known here and now.
namespace espalier::script {

/// The batch sizes at which every operator is run once while a graph is read: numbers that are
/// equal at both are constants, the others follow the batch.
inline constexpr std::array<int64_t, 2> kProbeBatches = {2, 5};

struct TensorItem {
  ValueId id = kNoValue;
  std::array<Tensor, 2> probe;
};

/// An int that follows the batch; `as_tensor` while the script holds it in a 0-d tensor, as traced
/// sizes are.
struct SizeItem {
  ValueId id = kNoValue;
  std::array<int64_t, 2> at{};
  bool as_tensor = false;
};

struct ModuleItem {
  c10::intrusive_ptr<c10::ivalue::Object> object;
  std::string path;  ///< "layer1.0"; "" for the root
};

struct Item;
/// Lists are shared and change in place, as in Python; tuples never change.
struct ListItem {
  std::shared_ptr<std::vector<Item>> items;
  c10::TypePtr element;  ///< nullptr for tuples
};
struct DictItem {
  std::shared_ptr<std::vector<std::pair<c10::IValue, Item>>> items;
};

/// A constant (None, numbers, text, tensors that are in no module), or one of the above.
struct Item : std::variant<c10::IValue, TensorItem, SizeItem, ListItem, DictItem, ModuleItem> {
  using variant::variant;
};

template <typename T>
const T* As(const Item& item) {
  return std::get_if<T>(&item);
}
inline bool IsNone(const Item& item) {
  const auto* constant = As<c10::IValue>(item);
  return constant && constant->isNone();
}

ListItem MakeList(std::vector<Item> items, c10::TypePtr element);  ///< a list of its own
/// Lists, tuples and dicts become items of their own, down to the leaves.
Item ItemOf(const c10::IValue& value);
/// The Python value at one probe, or nothing when a module is in it. Tensors are the probes.
std::optional<c10::IValue> ValueAt(const Item& item, size_t probe);

bool HasTensor(const Item& item);  ///< a tensor the network computes is in it
bool HasSize(const Item& item);    ///< a size that follows the batch is in it

}  // namespace espalier::script
