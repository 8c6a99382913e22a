#include "env/graph/pt2_symbols.h"

#include <ATen/ATen.h>

#include "env/base/error.h"
#include "env/graph/executor.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/tensor_loader.h"

namespace espalier::pt2 {
namespace {

using Seen = ValueRecord;

Seen Describe(const Tensor& tensor) {
  Seen seen{false, true, tensor.sizes().vec(), tensor.scalar_type()};
  const auto strides = tensor.strides();
  seen.numbers.insert(seen.numbers.end(), strides.begin(), strides.end());
  seen.numbers.push_back(tensor.storage_offset());
  return seen;
}

/// The line through the values at batch 2 and 3.
Size Fit(int64_t at2, int64_t at3) { return {at2 - 2 * (at3 - at2), at3 - at2}; }

}  // namespace

std::vector<ValueRecord> RecordValues(const Network& network, int64_t batch) {
  const at::NoGradGuard no_grad;
  const Graph& graph = network.graph;
  std::vector<Seen> seen(graph.values.size());
  std::vector<Tap> taps;
  for (const Op& op : graph.ops)
    if (ReturnsInt(op)) seen[static_cast<size_t>(op.outputs.front())].is_int = true;
  for (size_t id = 0; id < seen.size(); ++id)
    taps.push_back({static_cast<ValueId>(id), [&seen, id](const Tensor& tensor) {
                      seen[id] = seen[id].is_int
                                     ? Seen{true, true, {tensor.item<int64_t>()}, at::kLong}
                                     : Describe(tensor);
                    }});
  const Executor executor(graph);
  executor.Run(executor.Bind(ZerosForShapes(network.store)), SampleInputs(network, batch),
               {.taps = taps});
  return seen;
}

std::vector<SymbolicMeta> InferSymbolic(const Network& network) {
  const std::vector<Seen> two = RecordValues(network, 2);
  const std::vector<Seen> three = RecordValues(network, 3);
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
        if (five.empty()) five = RecordValues(network, 5);
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

nlohmann::ordered_json SizeJson(const Size& size, const std::string& symbol, int64_t batch) {
  if (size.factor == 0) return {{"as_int", size.constant}};
  std::string text = Str("Symbol('", symbol, "', positive=True, integer=True)");
  if (size.factor != 1) text = Str("Mul(Integer(", size.factor, "), ", text, ")");
  if (size.constant != 0) text = Str("Add(", text, ", Integer(", size.constant, "))");
  return {{"as_expr",
           {{"expr_str", text}, {"hint", {{"as_int", size.constant + batch * size.factor}}}}}};
}

}  // namespace espalier::pt2
