#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "env/base/words.h"
#include "env/graph/schema_writes.h"
#include "env/space/rewrite.h"
#include "env/space/space_builder.h"

namespace espalier {
namespace {

/// A part of a fresh tensor, and what is written into it.
struct Write {
  int32_t slice = 0, copy = 0;  // ops
  ValueId source = kNoValue;
  int64_t dim = 0, first = 0, step = 1;
};

class WriteJoiner {
 public:
  WriteJoiner(Network network, std::vector<ValueMeta>& meta)
      : network_(std::move(network)),
        meta_(meta),
        consumers_(network_.graph.Consumers()),
        gone_(network_.graph.ops.size(), false) {}

  Network Run() {
    for (size_t i = 0; i < gone_.size(); ++i) Join(static_cast<int32_t>(i));
    RemoveOps(network_.graph, gone_);
    return std::move(network_);
  }

 private:
  Op& At(int32_t index) { return network_.graph.ops[static_cast<size_t>(index)]; }
  const std::vector<int32_t>& Readers(ValueId value) const {
    return consumers_[static_cast<size_t>(value)];
  }
  ValueMeta& MetaOf(ValueId value) { return meta_[static_cast<size_t>(value)]; }

  static std::optional<int64_t> Int(const Op& op, const char* argument, int64_t by_default) {
    const auto* constant =
        std::get_if<c10::IValue>(&op.args[static_cast<size_t>(op.ArgIndex(argument))]);
    if (constant == nullptr || !(constant->isInt() || constant->isNone())) return std::nullopt;
    return constant->isInt() ? constant->toInt() : by_default;
  }

  /// The op as one write into `made`; nothing for others.
  std::optional<Write> WriteOf(int32_t index, ValueId made) {
    const Op& slice = At(index);
    if (slice.target() != "aten::slice.Tensor") return std::nullopt;
    const ValueId part = slice.outputs.front();
    if (Readers(part).size() != 1) return std::nullopt;
    const Op& copy = At(Readers(part).front());
    if (copy.target() != "aten::copy_" || copy.ValueArg("self") != part ||
        !Readers(copy.outputs.front()).empty())
      return std::nullopt;
    const std::vector<int64_t>& sizes = MetaOf(made).sizes;
    const auto dim = Int(slice, "dim", 0), first = Int(slice, "start", 0);
    const auto step = Int(slice, "step", 1);
    if (!dim || !first || !step) return std::nullopt;
    const auto rank = static_cast<int64_t>(sizes.size());
    Write write{.slice = index, .copy = Readers(part).front(), .source = copy.ValueArg("src")};
    write.dim = *dim < 0 ? *dim + rank : *dim;
    write.first = *first < 0 ? *first + sizes[static_cast<size_t>(write.dim)] : *first;
    write.step = *step;
    const bool casts = MetaOf(write.source).dtype != MetaOf(made).dtype;
    if (casts || MetaOf(write.source).sizes != MetaOf(part).sizes) return std::nullopt;
    return write;
  }

  /// Writes that fill all of `made`, each place once, in the order of their places.
  std::vector<Write> WritesOf(ValueId made) {
    std::vector<Write> writes;
    int32_t last = -1;
    for (const int32_t reader : Readers(made)) {
      const auto write = WriteOf(reader, made);
      if (!write) break;  // from here on it is read
      writes.push_back(*write);
      last = std::max(last, write->copy);
    }
    for (const int32_t reader : Readers(made)) {
      const bool writes_it =
          std::ranges::any_of(writes, [&](const Write& write) { return write.slice == reader; });
      if (!writes_it && reader < last) return {};
    }
    std::ranges::sort(writes, {}, &Write::first);
    int64_t next = 0;
    const auto count = std::ssize(writes);
    for (const Write& write : writes) {
      const bool in_turn = writes.front().step > 1;
      if (write.dim != writes.front().dim || write.first != next) return {};
      if (write.step != (in_turn ? count : 1)) return {};
      const int64_t size = MetaOf(write.source).sizes[static_cast<size_t>(write.dim)];
      if (in_turn && size != MetaOf(writes.front().source).sizes[static_cast<size_t>(write.dim)])
        return {};
      next += in_turn ? 1 : size;
    }
    const int64_t all = count < 2 ? -1 : MetaOf(made).sizes[static_cast<size_t>(writes[0].dim)];
    return count >= 2 && (writes[0].step > 1 || next == all) ? writes : std::vector<Write>();
  }

  /// Whether something else is written meanwhile: perhaps a source, after it was copied.
  bool OthersWrite(const std::vector<Write>& writes) {
    const auto [first, last] = std::ranges::minmax(writes, {}, &Write::copy);
    for (int32_t index = first.copy; index < last.copy; ++index)
      if (WritesAny(At(index).handle.schema()) &&
          std::ranges::find(writes, index, &Write::copy) == writes.end())
        return true;
    return false;
  }

  /// Sources may be repeated along what is one sample wide here only.
  bool FitAnyBatch(const std::vector<Write>& writes) {
    if (!of_three_) of_three_ = InferMeta(network_, 3);
    return std::ranges::all_of(writes, [&](const Write& write) {
      const ValueId part = At(write.slice).outputs.front();
      return (*of_three_)[static_cast<size_t>(write.source)].sizes ==
             (*of_three_)[static_cast<size_t>(part)].sizes;
    });
  }

  void Join(int32_t index) {
    static const auto kFresh =
        Words("empty empty_like zeros zeros_like new_empty new_zeros clone", "aten::");
    const Op& fresh = At(index);
    if (gone_[static_cast<size_t>(index)] || fresh.outputs.size() != 1 ||
        !kFresh.contains(fresh.handle.operator_name().name))
      return;
    const ValueId made = fresh.outputs.front();
    const std::vector<Write> writes = WritesOf(made);
    if (writes.empty()) return;
    if (OthersWrite(writes) || !FitAnyBatch(writes)) return;
    const Write& last = *std::ranges::max_element(writes, {}, &Write::copy);
    const int32_t produced = network_.graph.values[static_cast<size_t>(last.source)].producer;
    if (produced > last.slice) return;  // no place for two ops
    ValueList sources;
    gone_[static_cast<size_t>(index)] = true;
    for (const Write& write : writes) {
      sources.ids.push_back(write.source);
      gone_[static_cast<size_t>(write.slice)] = gone_[static_cast<size_t>(write.copy)] = true;
    }
    Op& end = At(last.copy);
    gone_[static_cast<size_t>(last.copy)] = false;
    if (last.step > 1) {
      Op& stack = At(last.slice);
      gone_[static_cast<size_t>(last.slice)] = false;
      stack.handle = FindOperator("aten::stack", "");
      stack.args = {sources, c10::IValue(last.dim + 1)};
      std::vector<int64_t>& sizes = MetaOf(stack.outputs.front()).sizes;
      sizes.insert(sizes.begin() + last.dim + 1, std::ssize(writes));
      end.handle = FindOperator("aten::flatten", "using_ints");
      end.args = {stack.outputs.front(), c10::IValue(last.dim), c10::IValue(last.dim + 1)};
    } else {
      end.handle = FindOperator("aten::cat", "");
      end.args = {sources, c10::IValue(last.dim)};
    }
    end.outputs = {made};
  }

  Network network_;
  std::vector<ValueMeta>& meta_;
  const std::vector<std::vector<int32_t>> consumers_;
  std::vector<bool> gone_;
  std::optional<std::vector<ValueMeta>> of_three_;  // of the network as it was given
};

}  // namespace

Network JoinWrites(Network network, std::vector<ValueMeta>& meta) {
  return WriteJoiner(std::move(network), meta).Run();
}

}  // namespace espalier
