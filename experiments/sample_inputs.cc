#include "experiments/sample_inputs.h"

#include <ATen/ATen.h>

#include <charconv>
#include <map>

#include "env/base/error.h"
#include "env/graph/io.h"

namespace espalier {
namespace {

constexpr int64_t kMaxElements = 1ll << 30;

[[noreturn]] void FailShape(const std::string& shape, const std::string& what) {
  throw Error(ErrorKind::kUsage, Str("input shape '", shape, "': ", what),
              "write 1x3x224x224, or 1x3x224x224,1x16:int64 for several");
}

at::ScalarType DtypeNamed(const std::string& shape, const std::string& name) {
  static const std::map<std::string, at::ScalarType> kNames = {
      {"float32", at::kFloat},  {"float16", at::kHalf}, {"bfloat16", at::kBFloat16},
      {"float64", at::kDouble}, {"int64", at::kLong},   {"int32", at::kInt},
      {"bool", at::kBool}};
  const auto found = kNames.find(name);
  if (found != kNames.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& [dtype, type] : kNames) known.push_back(dtype);
  FailShape(shape, Str("unknown type '", name, "', ", SuggestName(name, known)));
}

Tensor ZerosOf(const std::string& shape) {
  const size_t colon = shape.find(':');
  const auto dtype =
      colon == std::string::npos ? at::kFloat : DtypeNamed(shape, shape.substr(colon + 1));
  const std::string text = shape.substr(0, colon);
  std::vector<int64_t> sizes;
  int64_t elements = 1;
  for (const char* at = text.data();; ++at) {
    int64_t size = 0;
    const auto [end, failed] = std::from_chars(at, text.data() + text.size(), size);
    if (failed != std::errc() || size < 1) FailShape(shape, "sizes are whole numbers from 1 on");
    if (__builtin_mul_overflow(elements, size, &elements) || elements > kMaxElements)
      FailShape(shape, Str("more than ", kMaxElements, " elements"));
    sizes.push_back(size);
    at = end;
    if (at == text.data() + text.size()) break;
    if (*at != 'x') FailShape(shape, Str("'", *at, "' stands between sizes, 'x' should"));
  }
  return at::zeros(sizes, dtype);
}

}  // namespace

std::vector<Sample> ReadSamples(const std::string& file, const std::string& shapes) {
  if (!file.empty() && !shapes.empty())
    throw Error(ErrorKind::kUsage, "an input file and an input shape are given: one says it all");
  std::vector<Sample> samples;
  if (!file.empty())
    for (const auto& [name, tensor] : ReadSafetensors(file).tensors)
      samples.push_back({name, tensor});
  for (size_t start = 0; !shapes.empty() && start <= shapes.size();) {
    const size_t end = std::min(shapes.find(',', start), shapes.size());
    samples.push_back({"", ZerosOf(shapes.substr(start, end - start))});
    start = end + 1;
  }
  return samples;
}

}  // namespace espalier
