#include "env/graph/pt2_symbols.h"

#include <ATen/ATen.h>

#include "env/base/error.h"
#include "env/graph/executor.h"
#include "env/graph/pt2_schema.h"

namespace espalier::pt2 {
namespace {

/// All numbers of one value at one batch size, flattened: sizes, strides, offset (or the int).
struct Seen {
  bool is_int = false;
  bool computed = false;
  std::vector<int64_t> numbers;
  at::ScalarType dtype = at::kFloat;
};

Seen Describe(const Tensor& tensor) {
  Seen seen{false, true, tensor.sizes().vec(), tensor.scalar_type()};
  const auto strides = tensor.strides();
  seen.numbers.insert(seen.numbers.end(), strides.begin(), strides.end());
  seen.numbers.push_back(tensor.storage_offset());
  return seen;
}

/// Computed sizes are no tensors, so taps do not see them: follow them by hand.
int64_t EvaluateInt(const Op& op, const std::vector<Seen>& seen) {
  std::vector<c10::IValue> stack;
  for (const Arg& arg : op.args) {
    if (const auto* id = std::get_if<ValueId>(&arg)) {
      const Seen& input = seen[static_cast<size_t>(*id)];
      if (input.is_int)
        stack.emplace_back(input.numbers.front());
      else if (op.target() == "aten::sym_size.int")
        stack.emplace_back();  // replaced by the recorded sizes below
      else
        throw Error(ErrorKind::kModel, Str("op '", op.name, "' (", op.target(), " at '",
                                           op.module_path, "') makes a size out of tensor data"));
    } else if (const auto* constant = std::get_if<c10::IValue>(&arg)) {
      stack.push_back(*constant);
    } else {
      throw Error(ErrorKind::kModel, Str("op '", op.name, "' (", op.target(), ") makes a size"));
    }
  }
  if (op.target() == "aten::sym_size.int") {
    const Seen& tensor = seen[static_cast<size_t>(op.ValueArg("self"))];
    const auto rank = static_cast<int64_t>(tensor.numbers.size() / 2);
    const int64_t dim = stack[1].toInt();
    return tensor.numbers.at(static_cast<size_t>(dim < 0 ? dim + rank : dim));
  }
  op.handle.callBoxed(stack);
  return stack.front().toInt();
}

std::vector<Seen> RunAt(const Network& network, int64_t batch) {
  const at::NoGradGuard no_grad;
  const Graph& graph = network.graph;
  std::vector<Seen> seen(graph.values.size());
  std::vector<Tap> taps;
  for (size_t id = 0; id < seen.size(); ++id)
    taps.push_back({static_cast<ValueId>(id),
                    [&seen, id](const Tensor& tensor) { seen[id] = Describe(tensor); }});
  const Executor executor(graph);
  executor.Run(executor.Bind(network.store), SampleInputs(network, batch), {.taps = taps});
  for (const Op& op : graph.ops)
    if (ReturnsInt(op))
      seen[static_cast<size_t>(op.outputs.front())] = {
          true, true, {EvaluateInt(op, seen)}, at::kLong};
  return seen;
}

/// The line through the values at batch 2 and 3.
Size Fit(int64_t at2, int64_t at3) { return {at2 - 2 * (at3 - at2), at3 - at2}; }

}  // namespace

std::vector<SymbolicMeta> InferSymbolic(const Network& network) {
  const std::vector<Seen> two = RunAt(network, 2);
  const std::vector<Seen> three = RunAt(network, 3);
  std::vector<Seen> five;  // only needed where a size is no plain multiple of the batch
  std::vector<SymbolicMeta> all(two.size());
  for (size_t id = 0; id < two.size(); ++id) {
    const std::string& name = network.graph.values[id].name;
    if (two[id].numbers.size() != three[id].numbers.size())
      throw Error(ErrorKind::kModel, Str("the rank of value '", name, "' depends on the batch"));
    std::vector<Size> sizes;
    for (size_t i = 0; i < two[id].numbers.size(); ++i) {
      const Size size = Fit(two[id].numbers[i], three[id].numbers[i]);
      if (size.constant != 0 && size.factor != 0) {
        if (five.empty()) five = RunAt(network, 5);
        if (five[id].numbers[i] != size.constant + 5 * size.factor)
          throw Error(ErrorKind::kModel,
                      Str("a size of value '", name,
                          "' is no linear function of the batch: ", two[id].numbers[i], ", ",
                          three[id].numbers[i], ", ", five[id].numbers[i], " at batch 2, 3, 5"));
      }
      sizes.push_back(size);
    }
    SymbolicMeta& meta = all[id];
    meta.is_int = two[id].is_int;
    meta.computed = two[id].computed;
    meta.dtype = two[id].dtype;
    if (meta.is_int || !meta.computed) {
      meta.sizes = std::move(sizes);
      continue;
    }
    const auto rank = static_cast<std::ptrdiff_t>(sizes.size() / 2);
    meta.sizes.assign(sizes.begin(), sizes.begin() + rank);
    meta.strides.assign(sizes.begin() + rank, sizes.begin() + 2 * rank);
    meta.offset = sizes.back();
  }
  return all;
}

nlohmann::ordered_json SizeJson(const Size& size) {
  if (size.factor == 0) return {{"as_int", size.constant}};
  std::string text = Str("Symbol('", kBatchSymbol, "', positive=True, integer=True)");
  if (size.factor != 1) text = Str("Mul(Integer(", size.factor, "), ", text, ")");
  if (size.constant != 0) text = Str("Add(", text, ", Integer(", size.constant, "))");
  return {
      {"as_expr", {{"expr_str", text}, {"hint", {{"as_int", size.constant + 2 * size.factor}}}}}};
}

}  // namespace espalier::pt2
