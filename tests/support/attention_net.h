#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "criteria/criterion.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "tests/support/calibrated_network.h"

namespace espalier {

/// One attention of four heads between linear layers, a batch for it, and its space.
class AttentionNet {
 public:
  static constexpr int64_t kWidth = 16, kHeads = 4, kDim = 4, kLength = 5;
  /// Queries and keys meet in a product written out, or in the fused operator; with fewer key heads
  /// than query heads these share them. bent: a nonlinearity between the attention and the layer
  /// that reads it.
  AttentionNet(bool fused, int64_t key_heads, const std::string& attention, bool bent = false) {
    Builder b("attention", 1);
    const ValueId x = b.Input("x", {2, kLength, 8});
    const auto heads = [&](const std::string& name, int64_t count) {
      const ValueId y = b.Linear(name, x, 8, count * kDim);
      const std::vector<int64_t> sizes = {-1, kLength, count, kDim};
      return Swap(b, b.Call("aten::reshape", "", {{"self", y}, {"shape", c10::IValue(sizes)}}), 1,
                  2);
    };
    query_ = heads("q", kHeads);
    key_ = heads("k", key_heads);
    const ValueId value = heads("v", key_heads);
    ValueId out;
    if (fused) {
      out = b.Call("aten::scaled_dot_product_attention", "",
                   {{"query", query_},
                    {"key", key_},
                    {"value", value},
                    {"enable_gqa", c10::IValue(key_heads != kHeads)}});
    } else {
      const ValueId scores =
          b.Call("aten::matmul", "", {{"self", query_}, {"other", Swap(b, key_, 2, 3)}});
      const ValueId weights =
          b.Call("aten::softmax", "int", {{"self", scores}, {"dim", c10::IValue(-1)}});
      out = b.Call("aten::matmul", "", {{"self", weights}, {"other", value}});
    }
    const std::vector<int64_t> merged = {-1, kLength, kWidth};
    out =
        b.Call("aten::reshape", "", {{"self", Swap(b, out, 1, 2)}, {"shape", c10::IValue(merged)}});
    if (bent) out = b.Relu(out);
    out = b.Relu(b.Linear("proj", out, kWidth, 6));
    network_ = b.Finish({b.Linear("head", out, 6, 3)});
    space_ = BuildSpace(network_, {.attention = attention});
    Rng rng(1);
    std::vector<int64_t> labels;
    for (int i = 0; i < 2 * kLength; ++i) labels.push_back(static_cast<int64_t>(rng.Index(3)));
    batch_ = {.inputs = {RandomTensor(rng, {2, kLength, 8})},
              .targets = {at::tensor(labels, at::kLong).view({2, kLength})}};
  }

  std::map<std::string, std::vector<double>> Score(const std::string& text) const {
    const auto criterion = MakeCriterion(text);
    const Statistics statistics =
        CollectStatistics(space_, network_.store, criterion->needs(), CalibrationOf({batch_}));
    const auto scores = ScoreGroups(*criterion, space_, network_.store, 0, &statistics);
    std::map<std::string, std::vector<double>> by_name;
    for (size_t g = 0; g < scores.size(); ++g) by_name[space_.groups()[g].name] = scores[g];
    return by_name;
  }
  /// E x^2 of queries and keys by (head, dim): [heads * dim].
  std::pair<Tensor, Tensor> Energies() const {
    const at::NoGradGuard no_grad;
    Tensor query, key;
    const std::vector<Tap> taps = {{query_, [&](const Tensor& value) { query = value; }},
                                   {key_, [&](const Tensor& value) { key = value; }}};
    const Executor executor(network_.graph);
    executor.Run(executor.Bind(network_.store), batch_.inputs, {.taps = taps});
    const auto energy = [](const Tensor& value) {  // [B, H, T, D]
      return value.to(at::kDouble).square().mean({0, 2}).reshape({-1});
    };
    return {energy(query), energy(key)};
  }
  const Space& space() const { return space_; }
  const Network& network() const { return network_; }
  const Batch& batch() const { return batch_; }

 private:
  static ValueId Swap(Builder& b, ValueId x, int64_t first, int64_t second) {
    return b.Call("aten::transpose", "int",
                  {{"self", x}, {"dim0", c10::IValue(first)}, {"dim1", c10::IValue(second)}});
  }
  ValueId query_ = kNoValue, key_ = kNoValue;
  Network network_;
  Space space_;
  Batch batch_;
};

}  // namespace espalier
