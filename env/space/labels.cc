#include "env/space/labels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <set>

namespace espalier {

std::vector<Tensor> RunMovement(const Op& op, const Tensor& x, const std::vector<ValueMeta>& meta) {
  static const std::set<std::string> kReshapes = {
      "aten::view",       "aten::reshape",      "aten::flatten", "aten::unflatten", "aten::view_as",
      "aten::reshape_as", "aten::_unsafe_view", "aten::expand",  "aten::expand_as"};
  const std::string& name = op.handle.operator_name().name;
  if (kReshapes.contains(name)) {
    const auto& sizes = meta[static_cast<size_t>(op.outputs.front())].sizes;
    return {name.starts_with("aten::expand") ? x.expand(sizes) : x.reshape(sizes)};
  }
  static const std::set<std::string> kSame = {"aten::clone",    "aten::contiguous", "aten::to",
                                              "aten::_to_copy", "aten::type_as",    "aten::detach",
                                              "aten::alias"};
  if (kSame.contains(name)) return {x};
  // Slices of a stack: which ones does not matter along the other axes.
  if (name == "aten::index")
    return {x.select(0, 0).expand(meta[static_cast<size_t>(op.outputs.front())].sizes)};
  const auto number = [&](ValueId value) {
    return value == kNoValue ? std::nullopt : meta[static_cast<size_t>(value)].scalar;
  };
  std::vector<c10::IValue> stack = {x};
  for (size_t a = 1; a < op.args.size(); ++a) {
    if (const auto* constant = std::get_if<c10::IValue>(&op.args[a])) {
      stack.push_back(*constant);
    } else if (const auto* list = std::get_if<ScalarList>(&op.args[a])) {
      std::vector<int64_t> items;
      for (const auto& item : list->items) {
        const auto known = std::holds_alternative<int64_t>(item)
                               ? std::optional(std::get<int64_t>(item))
                               : number(std::get<ValueId>(item));
        if (!known) return {};
        items.push_back(*known);
      }
      stack.emplace_back(items);
    } else {
      const auto* value = std::get_if<ValueId>(&op.args[a]);
      const auto known = value ? number(*value) : std::nullopt;
      if (!known) return {};
      stack.emplace_back(*known);
    }
  }
  op.handle.callBoxed(stack);
  if (op.returns_list) return stack.front().toTensorVector();
  return {stack.front().toTensor()};
}

std::vector<int64_t> VaryingAxes(const Tensor& ids) {
  std::vector<int64_t> axes;
  for (int64_t d = 0; d < ids.dim(); ++d)
    if (ids.size(d) > 1) axes.push_back(d);
  return axes;
}

int64_t InnerAxis(const Tensor& ids, const std::function<int64_t(int64_t)>& number) {
  int64_t inner = -1, least = 0;
  for (const int64_t axis : VaryingAxes(ids)) {
    const Tensor lines = ids.movedim(axis, -1).contiguous();
    const int64_t* label = lines.const_data_ptr<int64_t>();
    const int64_t length = lines.size(-1);
    for (int64_t i = 1; i < lines.numel(); ++i) {
      if (i % length == 0 || label[i] <= 0 || label[i - 1] <= 0) continue;
      const int64_t step = std::abs(number(label[i]) - number(label[i - 1]));
      if (step == 0 || (inner >= 0 && step >= least)) continue;
      inner = axis;
      least = step;
    }
  }
  return inner;
}

namespace {

/// The greatest label on every line along axis `d`, when there is no other on its line; undefined
/// when there is. Next to filler (0) and nothing that cannot be cut (-1), filler does not count.
Tensor SoleLabels(const Tensor& ids, int64_t d) {
  std::vector<int64_t> shape = ids.sizes().vec();
  const int64_t size = shape[static_cast<size_t>(d)];
  int64_t inner = 1;
  for (int64_t after = d + 1; after < ids.dim(); ++after) inner *= ids.size(after);
  shape[static_cast<size_t>(d)] = 1;
  Tensor highest = at::empty(shape, at::kLong);
  const int64_t* from = ids.const_data_ptr<int64_t>();
  int64_t* high = highest.mutable_data_ptr<int64_t>();
  bool constant = true, padded = true;
  for (int64_t line = 0; line < highest.numel(); line += inner, from += size * inner)
    for (int64_t i = 0; i < inner; ++i) {
      int64_t& most = high[line + i] = from[i];
      for (int64_t k = 1; k < size; ++k) {
        const int64_t label = from[k * inner + i];
        if (label == most) continue;
        constant = false;
        padded = padded && std::min(label, most) == 0;
        if (!padded) return {};
        most = std::max(most, label);
      }
      padded = padded && most >= 0;
      if (!constant && !padded) return {};
    }
  return highest;
}

}  // namespace

Tensor Compress(Tensor ids) {
  for (int64_t d = 0; d < ids.dim(); ++d)  // first what was expanded: it costs nothing to see
    if (ids.size(d) > 1 && ids.stride(d) == 0) ids = ids.narrow(d, 0, 1);
  ids = ids.contiguous();
  for (int64_t d = 0; d < ids.dim(); ++d)
    if (ids.size(d) > 1)
      if (const Tensor sole = SoleLabels(ids, d); sole.defined()) ids = sole;
  return ids;
}

}  // namespace espalier
