#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include <string>
#include <utility>
#include <vector>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "tests/env/space/random_network.h"

namespace espalier {

/// Draws a network step by step. Every value is [batch, channels, 8, 8], so that any step may
/// follow any other.
class Draw {
 public:
  Draw(uint64_t seed, Menu menu) : rng_(seed), b_("fuzz", seed), menu_(menu) {}
  Network Make();

 private:
  struct Item {
    ValueId id;
    int64_t channels;
  };

  void Step();
  void Conv();
  void Grouped();
  void Activate();
  void Merge();
  void Concat();
  void Gate();  // squeeze-excite
  void PaddedShortcut();
  void Shuffle();  // a reshape that splits the channels: pinned, with a reason

  void Wide();  // a step of the wider menu
  void LinearOverChannels();
  void LayerNorm();
  void GroupNorm();
  void Halves();  // a split, its parts used apart or swapped
  void Narrow();
  void Reorder();
  void Pixels();  // space to depth, a convolution there, and back
  void Transposed();
  void DownAndUp();
  void Attention();
  void Flattened();  // channels and places in one axis, down to a gate of few channels
  void GatedUnit();
  void Stacked();       // side by side in an axis of their own, then one of them or their mean
  void OverChannels();  // a statistic or a running sum along the channels themselves
  void Spread();        // one value a channel, spread over the places again
  void Repeated();
  void Scaled();  // layer scale, or a slope a channel
  void Shared();  // one convolution used twice, on its own output the second time
  void Contracted();
  void SingleGate();       // one channel scales all of another value
  void PathWeights();      // softmax over paths
  void PaddedOnes();       // channels that hold a number
  void PackedAttention();  // q, k, wider v beside each other in every head
  void LinearAttention();  // q (k^T v), heads merged with the batch
  void CoVariance();       // channels of two values by each other
  void Experts();          // a small network for every slice of a stack, summed or side by side
  void BlockDiagonal();    // a matrix for every head
  void PickedMatrices();   // a matrix for every place, some of a stack

  void Push(ValueId id, int64_t channels) { values_.push_back({id, channels}); }
  Item Any() { return values_[rng_.Index(values_.size())]; }
  std::string Path(const char* kind) { return Str(kind, layers_++); }
  using Ints = std::vector<int64_t>;
  static Arg Int(int64_t value) { return c10::IValue(value); }
  static Arg List(Ints values) { return c10::IValue(std::move(values)); }
  /// An operator of one tensor, which it calls self.
  ValueId On(const std::string& op, const std::string& overload, ValueId self,
             std::vector<Builder::NamedArg> rest = {}) {
    rest.insert(rest.begin(), {"self", self});
    return b_.Call("aten::" + op, overload, std::move(rest));
  }
  ValueId View(ValueId x, Ints sizes) {
    return On("reshape", "", x, {{"shape", c10::IValue(std::move(sizes))}});
  }
  ValueId Permute(ValueId x, Ints dims) {
    return On("permute", "", x, {{"dims", c10::IValue(std::move(dims))}});
  }
  ValueId Transpose(ValueId x, int64_t a, int64_t c) {
    return On("transpose", "int", x, {{"dim0", c10::IValue(a)}, {"dim1", c10::IValue(c)}});
  }
  ValueId Einsum(const std::string& equation, ValueId a, ValueId b) {
    return b_.Call("aten::einsum", "",
                   {{"equation", c10::IValue(equation)}, {"tensors", ValueList{{a, b}}}});
  }
  ValueId ChannelsLast(ValueId x) { return Permute(x, {0, 2, 3, 1}); }
  ValueId ChannelsFirst(ValueId x) { return Permute(x, {0, 3, 1, 2}); }
  ValueId Random(const std::string& path, Ints sizes) {
    return b_.Parameter(path, at::randn(sizes, at::detail::createCPUGenerator(layers_)));
  }

  Rng rng_;
  Builder b_;
  Menu menu_;
  std::vector<Item> values_;
  int layers_ = 0;
};

}  // namespace espalier
