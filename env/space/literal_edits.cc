#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "env/base/error.h"
#include "env/space/plan.h"

// Integer arguments that name a width: what they become when units are cut.

namespace espalier {
namespace {

class LiteralEditor {
 public:
  LiteralEditor(const Space& space, const std::vector<uint8_t>& mask)
      : space_(space), mask_(mask), effective_(EffectiveMask(space, mask)) {}

  std::vector<LiteralEdit> Run() {
    const auto& ops = space_.network().graph.ops;
    for (size_t i = 0; i < ops.size(); ++i) {
      const Op& op = ops[i];
      const std::string name = op.handle.operator_name().name.substr(6);  // without "aten::"
      index_ = static_cast<int32_t>(i);
      if (name.starts_with("conv") || name == "_convolution")
        Groups(op, "groups");
      else if (name == "group_norm")
        Groups(op, "num_groups");
      else if (name == "constant_pad_nd" || name == "pad")
        Pads(op);
      else if (name == "view" || name == "expand" || name == "_unsafe_view" || name == "zeros" ||
               name == "ones" || name == "full" || name == "new_zeros" || name == "new_ones" ||
               name == "new_full")
        Sizes(op, "size", 0);
      else if (name == "reshape")
        Sizes(op, "shape", 0);
      else if (name == "unflatten")
        Unflatten(op);
      else if (name == "layer_norm" || name == "rms_norm")
        Normalized(op);
      else if (name == "split_with_sizes")
        Split(op);
      else if (name == "slice")
        Slice(op);
      else if (name == "narrow")
        Narrow(op);
      else if (name == "select")
        Select(op);
      else if (name == "repeat_interleave" && op.ArgIndex("output_size") >= 0)
        OutputSize(op);
    }
    return std::move(edits_);
  }

 private:
  const ValueShape& Shape(ValueId value) const {
    return space_.values()[static_cast<size_t>(value)];
  }

  /// Kept coordinates among [first, first + count) of a value's axis.
  int64_t Kept(ValueId value, size_t axis, int64_t first, int64_t count) const {
    const ValueShape& shape = Shape(value);
    if (axis >= shape.unit.size() || shape.unit[axis].empty()) return count;
    const auto& mask = shape.in_block[axis] ? mask_ : effective_;
    int64_t kept = 0;
    for (int64_t i = first; i < first + count; ++i) {
      const int32_t unit = shape.unit[axis][static_cast<size_t>(i)];
      kept += unit < 0 || mask[static_cast<size_t>(unit)];
    }
    return kept;
  }
  int64_t Width(ValueId value, size_t axis) const {
    return Kept(value, axis, 0, Shape(value).sizes[axis]);
  }

  void Add(const Op& op, const char* argument, std::vector<int64_t> from, std::vector<int64_t> to,
           bool is_list) {
    if (from != to)
      edits_.push_back({op.name, op.target(), argument, index_, std::move(from), std::move(to),
                        is_list, op.module_path});
  }

  /// A list argument with kComputed for entries that are no literals; empty when it is a value.
  static std::vector<int64_t> List(const Op& op, const char* argument) {
    const Arg& arg = op.args[static_cast<size_t>(op.ArgIndex(argument))];
    if (const auto* constant = std::get_if<c10::IValue>(&arg))
      return constant->isInt() ? std::vector<int64_t>{constant->toInt()} : constant->toIntVector();
    std::vector<int64_t> list;
    if (const auto* scalars = std::get_if<ScalarList>(&arg))
      for (const auto& item : scalars->items)
        list.push_back(std::holds_alternative<int64_t>(item) ? std::get<int64_t>(item) : kComputed);
    return list;
  }
  static std::optional<int64_t> Int(const Op& op, const char* argument) {
    const auto* constant =
        std::get_if<c10::IValue>(&op.args[static_cast<size_t>(op.ArgIndex(argument))]);
    return constant && constant->isInt() ? std::optional(constant->toInt()) : std::nullopt;
  }
  size_t Dim(const Op& op, ValueId value) const {
    const int64_t dim = Int(op, "dim").value_or(0);
    return static_cast<size_t>(dim < 0 ? dim + static_cast<int64_t>(Shape(value).sizes.size())
                                       : dim);
  }

  void Groups(const Op& op, const char* argument) {  // as many groups as input channels
    const ValueId input = op.ValueArg("input");
    const int64_t groups = op.Constant(argument).toInt();
    if (groups > 1 && groups == Shape(input).sizes[1])
      Add(op, argument, {groups}, {Width(input, 1)}, false);
  }

  void Pads(const Op& op) {
    const auto from = List(op, "pad");
    auto to = from;
    const ValueId output = op.outputs.front();
    const auto& shape = Shape(output);
    for (size_t i = 0; i < from.size() / 2; ++i) {
      const size_t axis = shape.sizes.size() - 1 - i;
      if (shape.unit[axis].empty() || from[2 * i] == kComputed) continue;
      to[2 * i] = Kept(output, axis, 0, from[2 * i]);
      to[2 * i + 1] = Kept(output, axis, shape.sizes[axis] - from[2 * i + 1], from[2 * i + 1]);
    }
    Add(op, "pad", from, to, true);
  }

  /// Entry i of the list is the size of output axis i + shift.
  void Sizes(const Op& op, const char* argument, size_t shift) {
    if (op.ArgIndex(argument) < 0) return;  // view to a dtype
    const auto from = List(op, argument);
    auto to = from;
    for (size_t i = 0; i < from.size(); ++i)
      if (from[i] > 0 && Shape(op.outputs.front()).sizes[i + shift] == from[i])
        to[i] = Width(op.outputs.front(), i + shift);
    Add(op, argument, from, to, true);
  }
  void Unflatten(const Op& op) { Sizes(op, "sizes", Dim(op, op.ValueArg("self"))); }

  void Normalized(const Op& op) {
    const auto from = List(op, "normalized_shape");
    const ValueId input = op.ValueArg("input");
    const size_t first = Shape(input).sizes.size() - from.size();
    auto to = from;
    for (size_t i = 0; i < from.size(); ++i) to[i] = Width(input, first + i);
    Add(op, "normalized_shape", from, to, true);
  }

  void Split(const Op& op) {
    const ValueId input = op.ValueArg("self");
    const size_t dim = Dim(op, input);
    const auto from = List(op, "split_sizes");
    auto to = from;
    int64_t start = 0;
    for (size_t i = 0; i < from.size() && from[i] >= 0; ++i) {
      to[i] = Kept(input, dim, start, from[i]);
      start += from[i];
    }
    Add(op, "split_sizes", from, to, true);
  }

  void Slice(const Op& op) {
    const ValueId input = op.ValueArg("self");
    const size_t dim = Dim(op, input);
    const int64_t size = Shape(input).sizes[dim];
    if (Shape(input).unit[dim].empty()) return;
    for (const char* argument : {"start", "end"}) {
      const auto bound = Int(op, argument);
      if (!bound || *bound >= size || *bound == 0) continue;  // ends beyond the axis stay beyond
      const int64_t place = std::max<int64_t>(0, *bound < 0 ? *bound + size : *bound);
      Add(op, argument, {*bound}, {Kept(input, dim, 0, place)}, false);
    }
  }

  void Narrow(const Op& op) {
    const ValueId input = op.ValueArg("self");
    const size_t dim = Dim(op, input);
    const auto start = Int(op, "start"), length = Int(op, "length");
    if (!start || !length || Shape(input).unit[dim].empty()) return;
    Add(op, "start", {*start}, {Kept(input, dim, 0, *start)}, false);
    Add(op, "length", {*length}, {Kept(input, dim, *start, *length)}, false);
  }

  void Select(const Op& op) {
    const ValueId input = op.ValueArg("self");
    const size_t dim = Dim(op, input);
    const auto place = Int(op, "index");
    if (!place || Shape(input).unit[dim].empty()) return;
    const int64_t at = *place < 0 ? *place + Shape(input).sizes[dim] : *place;
    Add(op, "index", {*place}, {Kept(input, dim, 0, at)}, false);
  }

  void OutputSize(const Op& op) {
    const auto size = Int(op, "output_size");
    const ValueId output = op.outputs.front();
    const size_t dim = Dim(op, output);
    if (size) Add(op, "output_size", {*size}, {Width(output, dim)}, false);
  }

  const Space& space_;
  const std::vector<uint8_t>& mask_;
  const std::vector<uint8_t> effective_;
  int32_t index_ = 0;
  std::vector<LiteralEdit> edits_;
};

}  // namespace

std::vector<LiteralEdit> FollowLiterals(const Space& space, const std::vector<uint8_t>& mask) {
  return LiteralEditor(space, mask).Run();
}

}  // namespace espalier
