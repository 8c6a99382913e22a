#include <algorithm>
#include <cctype>
#include <set>

#include "env/base/error.h"
#include "env/base/words.h"
#include "env/cost/cost.h"

// What each operator counts, by its name.

namespace espalier {
namespace {

/// Ops whose output is only another view of their input: no bytes of their own.
bool IsView(const std::string& name) {
  static const std::set<std::string> kViews = Words(
      "view flatten unflatten permute transpose t mT numpy_T swapaxes movedim slice narrow select "
      "squeeze unsqueeze expand chunk split split_with_sizes unbind detach alias dropout "
      "feature_dropout");
  return name.ends_with("_") || kViews.contains(name);
}

/// Element-wise work, normalisation over few elements and data movement: no MACs under any of the
/// conventions.
bool IsFree(const std::string& name) {
  static const std::set<std::string> kFree = Words(
      "relu hardtanh relu6 leaky_relu elu gelu silu mish sigmoid tanh hardswish "
      "hardsigmoid softplus clamp clamp_min clamp_max add sub rsub mul div cat stack neg "
      "exp log sqrt rsqrt pow square abs sin cos where masked_fill pad index_add index "
      "index_select constant_pad_nd contiguous clone to _to_copy reshape copy roll flip "
      "repeat repeat_interleave softmax log_softmax _softmax embedding sym_size arange "
      "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full empty "
      "tril triu eq ne lt le gt ge logical_not logical_and logical_or bitwise_and "
      "bitwise_not glu prelu pixel_shuffle pixel_unshuffle im2col max_pool1d max_pool2d "
      "max_pool3d max_pool2d_with_indices _unsafe_view dropout scalar_tensor "
      "lift_fresh_copy add_n channel_shuffle type_as maximum minimum expand_as selu celu "
      "erf reciprocal tile view_as");
  std::string base = name;
  if (base.ends_with("_")) base.pop_back();
  return kFree.contains(base) || IsView(base);
}

double Product(const std::vector<int64_t>& sizes, size_t first) {
  double product = 1;
  for (size_t i = first; i < sizes.size(); ++i) product *= static_cast<double>(sizes[i]);
  return product;
}

}  // namespace

/// MACs of one op under each convention.
///
/// Source   AutoBot's module counters (thop of that era): conv C_out C_in H W k^2 plus one per
/// output
///          element for a bias; linear C_in C_out; batch-norm 2 per element; average pooling one
///          per output element, adaptive average pooling (k^2 + 1) per output element with k =
///          input side / output side; ReLU and max pooling nothing.
void CostModel::AddOp(const Space& space, int32_t index) {
  const Op& op = space.network().graph.ops[static_cast<size_t>(index)];
  if (op.outputs.empty()) return;                                     // an assertion
  const std::string name = op.handle.operator_name().name.substr(6);  // without "aten::"
  const auto& values = space.values();
  const ValueShape& out = values[static_cast<size_t>(op.outputs.front())];
  // A term over the given axes of a value; rigid axes go into the coefficient.
  const auto term = [&](double coefficient, std::vector<const AxisCount*> axes) {
    Term made{coefficient, {}, index};
    for (const AxisCount* axis : axes) {
      if (axis->terms.empty())
        made.coefficient *= static_cast<double>(axis->constant);
      else
        made.axes.push_back(AxisId(*axis));
    }
    return made;
  };
  const auto full = [&](double coefficient) { return Term{coefficient, {}, index}; };
  const auto all_axes = [](const ValueShape& shape) {
    std::vector<const AxisCount*> axes;
    for (const AxisCount& axis : shape.axes) axes.push_back(&axis);
    return axes;
  };
  if (!IsView(name)) activations_.push_back(ElementsOf(out, 4, index));
  // These axes and all places of an image, which may be units of something, too.
  const auto everywhere = [](const ValueShape& shape, std::vector<const AxisCount*> axes) {
    for (size_t axis = 2; axis < shape.axes.size(); ++axis) axes.push_back(&shape.axes[axis]);
    return axes;
  };
  // A matrix product: one MAC per output element and entry of what is summed over.
  const auto products = [&](const ValueShape& shape, std::vector<const AxisCount*> summed) {
    std::vector<const AxisCount*> axes = all_axes(shape);
    axes.insert(axes.end(), summed.begin(), summed.end());
    for (auto* list : {&canonical_, &thop_, &autobot_}) list->push_back(term(1.0, axes));
  };

  if (name.starts_with("conv") || name == "_convolution") {
    const ValueShape& in = values[static_cast<size_t>(op.ValueArg("input"))];
    const auto& weight = values[static_cast<size_t>(op.ValueArg("weight"))].sizes;
    const auto groups = static_cast<double>(op.Constant("groups").toInt());
    const double kernel = Product(weight, 2);
    const bool depthwise = groups > 1 && groups == static_cast<double>(in.sizes[1]);
    if (name.find("transpose") != std::string::npos) {
      // Each input element is spread over the kernel: the roles of input and output change.
      const Term macs = depthwise
                            ? term(kernel, everywhere(in, {&out.axes[1]}))
                            : term(kernel / groups, everywhere(in, {&out.axes[1], &in.axes[1]}));
      for (auto* list : {&canonical_, &thop_, &autobot_}) list->push_back(macs);
      if (op.ValueArg("bias") != kNoValue)
        thop_.push_back(term(1, everywhere(out, {&out.axes[1]})));
      return;
    }
    // Depthwise: every output row reads one input whatever the width, so only the rows count.
    const Term macs = depthwise
                          ? term(kernel, everywhere(out, {&out.axes[1]}))
                          : term(kernel / groups, everywhere(out, {&out.axes[1], &in.axes[1]}));
    for (auto* list : {&canonical_, &thop_, &autobot_}) list->push_back(macs);
    if (op.ValueArg("bias") != kNoValue) {
      thop_.push_back(term(1, everywhere(out, {&out.axes[1]})));
      autobot_.push_back(full(Product(out.sizes, 1)));
    }
  } else if (name == "linear") {
    products(out, {&values[static_cast<size_t>(op.ValueArg("input"))].axes.back()});
  } else if (name == "matmul" || name == "mm" || name == "bmm") {
    products(out, {&values[static_cast<size_t>(op.ValueArg("self"))].axes.back()});
  } else if (name == "baddbmm" || name == "addmm") {
    const char* left = name == "addmm" ? "mat1" : "batch1";
    products(out, {&values[static_cast<size_t>(op.ValueArg(left))].axes.back()});
  } else if (name == "scaled_dot_product_attention") {
    // Scores: heads, queries, keys, width; then their product with the values.
    const ValueShape& query = values[static_cast<size_t>(op.ValueArg("query"))];
    const ValueShape& key = values[static_cast<size_t>(op.ValueArg("key"))];
    const AxisCount& keys = key.axes[key.axes.size() - 2];
    products(query, {&keys});
    products(out, {&keys});
  } else if (name == "einsum") {
    const auto& operands = std::get<ValueList>(op.args[1]).ids;
    std::string letters = op.Constant("equation").toStringRef();
    std::erase(letters, ' ');
    std::vector<const AxisCount*> contracted;
    const std::string result =
        letters.find("->") == std::string::npos ? "" : letters.substr(letters.find("->") + 2);
    std::string seen = result;
    size_t place = 0, operand = 0;
    for (; place < letters.size() && letters[place] != '-' && operand < operands.size();
         ++operand) {
      const ValueShape& shape = values[static_cast<size_t>(operands[operand])];
      for (size_t axis = 0; place < letters.size() && std::isalpha(letters[place]); ++place, ++axis)
        if (seen.find(letters[place]) == std::string::npos && axis < shape.axes.size()) {
          seen += letters[place];
          contracted.push_back(&shape.axes[axis]);
        }
      if (place < letters.size() && letters[place] == ',') ++place;
    }
    products(out, contracted);
  } else if (name == "lstm" || name == "gru" || name == "rnn_tanh" || name == "rnn_relu") {
    // Every weight matrix is used once a step: rows times columns, for each step of the sequence.
    const ValueShape& in = values[static_cast<size_t>(op.ValueArg("input"))];
    const bool batch_first = op.Constant("batch_first").toBool();
    const size_t time = in.sizes.size() == 3 && batch_first ? 1 : 0;
    for (const ValueId id :
         std::get<ValueList>(op.args[static_cast<size_t>(op.ArgIndex("params"))]).ids) {
      const ValueShape& weight = values[static_cast<size_t>(id)];
      if (weight.sizes.size() != 2) continue;
      const Term macs = term(static_cast<double>(in.sizes[time]), all_axes(weight));
      for (auto* list : {&canonical_, &thop_, &autobot_}) list->push_back(macs);
    }
  } else if (name.ends_with("_cell")) {  // one step for every row of the input
    const ValueShape& in = values[static_cast<size_t>(op.ValueArg("input"))];
    const int64_t steps = in.sizes.size() == 2 ? in.sizes[0] : 1;
    for (const char* weight : {"w_ih", "w_hh"}) {
      const Term macs = term(static_cast<double>(steps),
                             all_axes(values[static_cast<size_t>(op.ValueArg(weight))]));
      for (auto* list : {&canonical_, &thop_, &autobot_}) list->push_back(macs);
    }
  } else if (name == "batch_norm") {
    thop_.push_back(term(2, all_axes(out)));
    autobot_.push_back(out.sizes.size() == 4 ? term(2, all_axes(out))
                                             : full(2 * Product(out.sizes, 0)));
  } else if (name.starts_with("adaptive_avg_pool")) {
    const ValueShape& in = values[static_cast<size_t>(op.ValueArg("self"))];
    const double window = Product(in.sizes, 2) / Product(out.sizes, 2);  // k^2
    for (auto* list : {&thop_, &autobot_}) list->push_back(term(window + 1, all_axes(out)));
  } else if (name.starts_with("avg_pool")) {
    for (auto* list : {&thop_, &autobot_}) list->push_back(term(1, all_axes(out)));
  } else if (!IsFree(name)) {
    const std::string line = Str(op.target(), " at '", op.module_path, "'");
    if (std::find(uncounted_.begin(), uncounted_.end(), line) == uncounted_.end())
      uncounted_.push_back(line);
  }
}

}  // namespace espalier
