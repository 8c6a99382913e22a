#include "experiments/sketch.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "env/base/error.h"

namespace espalier {
namespace {

std::string Times(at::IntArrayRef sizes) {  // "64x3x7x7" with a proper sign
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : "\u00d7") + std::to_string(size);
  return text;
}

std::string AfterDot(const std::string& text) {
  const size_t at = text.rfind('.');
  return at == std::string::npos ? text : text.substr(at + 1);
}

/// "layer1.0.conv1.weight" -> "layer1.0.conv1"; other tensors keep their whole name.
std::string LayerOf(const std::string& parameter) {
  const std::string leaf = AfterDot(parameter);
  if ((leaf != "weight" && leaf != "bias") || leaf.size() == parameter.size()) return parameter;
  return parameter.substr(0, parameter.size() - leaf.size() - 1);
}

/// The module that repeats: up to the first run of components that end in a digit, the last
/// component left out. "layer1.0.downsample.0" -> "layer1.0", "conv1" -> "".
std::string BlockOf(const std::string& path) {
  size_t end = 0;
  for (size_t at = 0; at < path.size();) {
    const size_t dot = path.find('.', at);
    if (dot == std::string::npos) break;  // the last component
    const bool counted = dot > at && std::isdigit(static_cast<unsigned char>(path[dot - 1]));
    if (counted)
      end = dot;
    else if (end > 0)
      break;
    at = dot + 1;
  }
  return path.substr(0, end);
}

/// The contracted graph.
class Sketch {
 public:
  explicit Sketch(const Space& space)
      : space_(space),
        graph_(space.network().graph),
        consumers_(graph_.Consumers()),
        sources_(graph_.values.size()),
        alone_(graph_.values.size(), false) {
    for (const auto& input : graph_.inputs) {
      SketchNode node = MakeNode(graph_.values[static_cast<size_t>(input.value)].name, input.value);
      node.look = SketchNode::Look::kEnd;
      Place(std::move(node), {input.value});
    }
    for (const Op& op : graph_.ops) AddOp(op);
    for (const ValueId output : graph_.outputs) {
      SketchNode node = MakeNode("output", output);
      node.look = SketchNode::Look::kEnd;
      node.from = Source(output);
      nodes_.push_back(std::move(node));
    }
  }
  std::vector<SketchNode> Nodes() && { return std::move(nodes_); }

 private:
  std::set<int32_t>& Source(ValueId value) { return sources_[static_cast<size_t>(value)]; }

  SketchNode MakeNode(const std::string& name, ValueId output) const {
    SketchNode node;
    node.name = name;
    const ValueShape& shape = space_.values()[static_cast<size_t>(output)];
    node.value = Times(shape.sizes);
    std::map<int32_t, int64_t> counts;
    for (const auto& axis : shape.unit)
      for (const int32_t unit : axis) ++counts[unit < 0 ? -1 : space_.group_of_unit(unit)];
    node.groups.assign(counts.begin(), counts.end());
    return node;
  }

  void Place(SketchNode node, const std::vector<ValueId>& outputs) {
    nodes_.push_back(std::move(node));
    for (const ValueId output : outputs) {
      Source(output) = {static_cast<int32_t>(nodes_.size()) - 1};
      alone_[static_cast<size_t>(output)] = outputs.size() == 1;
    }
  }

  void AddOp(const Op& op) {
    const std::string& full = op.handle.operator_name().name;
    if (!full.starts_with("aten::") || full.starts_with("aten::sym_")) return;  // sizes
    const std::string name = full.substr(6);
    if (name.starts_with("new_") || name.ends_with("_like")) return;  // reads a shape, no data
    std::vector<ValueId> stored;
    std::set<int32_t> from;
    ValueId data = kNoValue;
    for (const Use& use : UsesOf(op)) {
      if (std::holds_alternative<ScalarList>(op.args[static_cast<size_t>(use.arg)])) continue;
      const Value& value = graph_.values[static_cast<size_t>(use.value)];
      if (value.kind == ValueKind::kParameter) stored.push_back(use.value);
      if (!Source(use.value).empty()) data = use.value;
      from.insert(Source(use.value).begin(), Source(use.value).end());
    }
    if (!stored.empty()) return AddLayer(op, name, stored, from, data);
    static const std::set<std::string> kProducts = {"matmul", "bmm", "baddbmm", "einsum",
                                                    "scaled_dot_product_attention"};
    if (from.size() > 1 || (!from.empty() && kProducts.contains(name)))
      return AddJoin(op, name, std::move(from));
    const bool passes = data != kNoValue && alone_[static_cast<size_t>(data)] &&
                        consumers_[static_cast<size_t>(data)].size() == 1 && op.outputs.size() == 1;
    for (const ValueId output : op.outputs) {
      Source(output) = from;
      alone_[static_cast<size_t>(output)] = passes;
    }
  }

  /// One value a channel: norms, layer scale, prelu.
  bool PerChannel(const std::vector<ValueId>& stored) const {
    for (const ValueId id : stored) {
      const auto& sizes = space_.values()[static_cast<size_t>(id)].sizes;
      int64_t count = 1, largest = 1;
      for (const int64_t size : sizes) count *= size, largest = std::max(largest, size);
      if (count != largest) return false;
    }
    return true;
  }

  void AddLayer(const Op& op, const std::string& name, const std::vector<ValueId>& stored,
                const std::set<int32_t>& from, ValueId data) {
    const std::string& first = graph_.values[static_cast<size_t>(stored.front())].target;
    SketchNode node = MakeNode(LayerOf(first), op.outputs.front());
    node.type =
        node.name == op.module_path && !op.module_type.empty() ? AfterDot(op.module_type) : name;
    node.shape = ShapeText(op, name, stored);
    node.block = BlockOf(node.name);
    node.from = from;
    for (const ValueId id : stored)
      node.parameters.insert(
          space_.network().store.Canonical(graph_.values[static_cast<size_t>(id)].target));
    if (data != kNoValue && PerChannel(stored) && alone_[static_cast<size_t>(data)] &&
        consumers_[static_cast<size_t>(data)].size() == 1) {
      const int32_t host = *Source(data).begin();
      SketchNode& box = nodes_[static_cast<size_t>(host)];
      if (box.look == SketchNode::Look::kLayer) {
        box.merged.push_back(node.name);
        box.parameters.merge(node.parameters);
        box.groups = node.groups;
        for (const ValueId output : op.outputs) Source(output) = {host};
        alone_[static_cast<size_t>(op.outputs.front())] = true;
        return;
      }
    }
    Place(std::move(node), op.outputs);
  }

  void AddJoin(const Op& op, const std::string& name, std::set<int32_t> from) {
    static const std::map<std::string, std::string> kSigns = {
        {"add", "+"},
        {"add_", "+"},
        {"index_add", "+"},
        {"sub", "\u2212"},
        {"mul", "\u00d7"},
        {"mul_", "\u00d7"},
        {"scaled_dot_product_attention", "attention"}};
    const auto sign = kSigns.find(name);
    SketchNode node = MakeNode(sign == kSigns.end() ? name : sign->second, op.outputs.front());
    node.type = Str(op.target(), " at '", op.module_path, "'");
    node.look = SketchNode::Look::kJoin;
    node.block = BlockOf(op.module_path + ".");
    if (name == "cat") {  // what an earlier cat has joined is drawn through it: dense blocks
      const std::set<int32_t> all = from;
      for (auto it = cats_.rbegin(); it != cats_.rend(); ++it)
        if (it->second.size() < all.size() &&
            std::includes(all.begin(), all.end(), it->second.begin(), it->second.end())) {
          for (const int32_t part : it->second) from.erase(part);
          from.insert(it->first);
          break;
        }
      cats_.push_back({static_cast<int32_t>(nodes_.size()), all});
    }
    node.from = std::move(from);
    Place(std::move(node), op.outputs);
  }

  std::string ShapeText(const Op& op, const std::string& name,
                        const std::vector<ValueId>& stored) const {
    const auto& sizes = space_.values()[static_cast<size_t>(stored.front())].sizes;
    if (name.starts_with("conv") && sizes.size() > 2 && op.ArgIndex("groups") >= 0) {
      const bool transposed = name.starts_with("conv_transpose");
      const int64_t groups = op.Constant("groups").toInt();
      const int64_t in = transposed ? sizes[0] : sizes[1] * groups;
      const int64_t out = transposed ? sizes[1] * groups : sizes[0];
      std::string text = Str(in, " \u2192 ", out, ", ", Times(at::IntArrayRef(sizes).slice(2)));
      if (const auto stride = op.Constant("stride").toIntVector();
          !stride.empty() && stride.front() > 1)
        text += Str(" /", stride.front());
      return groups > 1 ? text + Str(groups == in ? ", depthwise" : Str(", ", groups, " groups"))
                        : text;
    }
    if (name == "linear" && sizes.size() == 2) return Str(sizes[1], " \u2192 ", sizes[0]);
    return Times(sizes);
  }

  const Space& space_;
  const Graph& graph_;
  std::vector<std::vector<int32_t>> consumers_;
  std::vector<std::set<int32_t>> sources_;  // by value: nodes it comes from
  std::vector<bool> alone_;  // by value: nothing else reads what its node makes on the way here
  std::vector<SketchNode> nodes_;
  std::vector<std::pair<int32_t, std::set<int32_t>>> cats_;  // node, everything it joins
};

}  // namespace

std::vector<SketchNode> SketchNetwork(const Space& space) { return Sketch(space).Nodes(); }

}  // namespace espalier
