#include "controllers/gate_folding.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "env/base/error.h"

namespace espalier {
namespace {

class Folder {
 public:
  Folder(const Network& network, const std::vector<ReadPoint>& reads)
      : network_(network), reads_(reads), consumers_(network.graph.Consumers()) {
    for (size_t i = 0; i < reads.size(); ++i) {
      place_[{reads[i].op, reads[i].arg, reads[i].element}] = i;
    }
    for (const Value& value : network.graph.values) {
      if (!value.target.empty()) ++readers_[network.store.Canonical(value.target)];
    }
  }

  /// Reads of a value, when all of them carry one and the same gate on axis 1.
  std::vector<size_t> CommonGate(ValueId value) const {
    std::vector<size_t> found;
    const auto& outputs = network_.graph.outputs;
    if (std::find(outputs.begin(), outputs.end(), value) != outputs.end()) return {};
    for (const int32_t op : consumers_[static_cast<size_t>(value)]) {
      for (const Use& use : UsesOf(network_.graph.ops[static_cast<size_t>(op)])) {
        if (use.value != value) continue;
        const auto read = place_.find({op, use.arg, use.element});
        if (read == place_.end()) return {};
        const ReadPoint& point = reads_[read->second];
        if (point.axis != 1 || point.unit != reads_[found.empty() ? read->second : found[0]].unit) {
          return {};
        }
        found.push_back(read->second);
      }
    }
    return found;
  }

  /// The batch norm that `value` is a positively homogeneous function of, or null.
  const Op* NormBefore(ValueId value) const {
    static const std::vector<std::string> kHomogeneous = {"aten::relu", "aten::relu_",
                                                          "aten::max_pool2d"};
    while (true) {
      const int32_t producer = network_.graph.values[static_cast<size_t>(value)].producer;
      if (producer < 0) return nullptr;
      const Op& op = network_.graph.ops[static_cast<size_t>(producer)];
      const std::string& name = op.handle.operator_name().name;
      if (name == "aten::batch_norm") return &op;
      if (std::find(kHomogeneous.begin(), kHomogeneous.end(), name) == kHomogeneous.end()) {
        return nullptr;
      }
      value = op.ValueArg("self");
      if (consumers_[static_cast<size_t>(value)].size() != 1) return nullptr;
    }
  }

  /// Store name of an argument that only this op reads; empty otherwise.
  std::string OwnParameter(const Op& op, const char* argument) const {
    const ValueId value = op.ValueArg(argument);
    if (value == kNoValue) return {};
    const std::string& name = network_.graph.values[static_cast<size_t>(value)].target;
    const bool own = !name.empty() && readers_.at(network_.store.Canonical(name)) == 1 &&
                     consumers_[static_cast<size_t>(value)].size() == 1;
    return own ? name : std::string();
  }

 private:
  const Network& network_;
  const std::vector<ReadPoint>& reads_;
  const std::vector<std::vector<int32_t>> consumers_;
  std::map<std::tuple<int32_t, int32_t, int32_t>, size_t> place_;  // (op, arg, element) -> read
  std::map<std::string, int> readers_;  // canonical store name -> values that read it
};

/// The value a read point reads.
ValueId ReadValue(const Graph& graph, const ReadPoint& read) {
  for (const Use& use : UsesOf(graph.ops[static_cast<size_t>(read.op)])) {
    if (use.arg == read.arg && use.element == read.element) return use.value;
  }
  ESPALIER_CHECK(false, "read point at op ", read.op, ", argument ", read.arg, " reads no value");
}

}  // namespace

GateFolding::GateFolding(const Network& network, const std::vector<ReadPoint>& reads)
    : removed_(reads.size(), false) {
  const Folder folder(network, reads);
  for (size_t i = 0; i < reads.size(); ++i) {
    if (removed_[i]) continue;
    const ValueId value = ReadValue(network.graph, reads[i]);
    const std::vector<size_t> common = folder.CommonGate(value);
    const Op* norm = common.empty() ? nullptr : folder.NormBefore(value);
    if (norm == nullptr) continue;
    const std::string weight = folder.OwnParameter(*norm, "weight");
    const std::string bias = folder.OwnParameter(*norm, "bias");
    if (weight.empty() || bias.empty()) continue;
    folds_.push_back({i, weight, bias});
    for (const size_t read : common) removed_[read] = true;
  }
}

void GateFolding::Apply(const ParameterStore& original, std::vector<Gate>& gates,
                        ParameterStore& store) const {
  ESPALIER_CHECK(gates.size() == removed_.size(), gates.size(), " gates for ", removed_.size(),
                 " reads");
  for (const Fold& fold : folds_) {
    const Tensor& multiplier = gates[fold.read].multiplier;
    store.Set(fold.weight, original.Get(fold.weight) * multiplier);
    store.Set(fold.bias, original.Get(fold.bias) * multiplier);
  }
  std::vector<Gate> left;
  for (size_t i = 0; i < gates.size(); ++i) {
    if (!removed_[i]) left.push_back(gates[i]);
  }
  gates = std::move(left);
}

}  // namespace espalier
