#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/pt2_nodes.h"
#include "env/graph/pt2_program.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/pt2_symbols.h"
#include "env/graph/size_expression.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

int64_t RecordedBatch(const Graph& graph) {
  const auto known = graph.symbols.find(graph.batch_symbol);
  if (known != graph.symbols.end()) return known->second;
  for (const InputSpec& input : graph.inputs)
    if (input.dynamic_batch && !input.sizes.empty()) return input.sizes[0];
  return kBatchHint;
}

/// Values keep their names; those that were added get one that is free.
std::vector<std::string> NamesOf(const Graph& graph) {
  NameTable unique;
  std::vector<std::string> names;
  for (const Value& value : graph.values) names.push_back(unique.Unique(value.name));
  return names;
}

class ProgramPatcher {
 public:
  ProgramPatcher(const Network& network, ordered_json program)
      : network_(network),
        program_(std::move(program)),
        graph_(program_.at("graph_module").at("graph")),
        writer_(network.graph, NamesOf(network.graph)) {}

  ordered_json Run() {
    PatchNodes();
    PatchStored();
    PatchValues();
    PatchOutputs();
    return std::move(program_);
  }

 private:
  // ---- nodes ----

  void PatchNodes() {
    ordered_json nodes = ordered_json::array();
    const ordered_json old = std::move(graph_["nodes"]);
    std::map<std::string, size_t> places;  // name -> index in `old`
    for (size_t i = 0; i < old.size(); ++i) places.emplace(NodeName(json(old[i]), i), i);
    const std::set<std::string> gone = ValuesGone();
    size_t done = 0;  // nodes of `old` that are dealt with
    const auto assertions_until = [&](size_t end) {
      for (; done < end; ++done)
        if (IsAssertion(json(old[done])) && !ChecksSizes(old[done]) && !Reads(old[done], gone))
          nodes.push_back(old[done]);
    };
    for (const Op& op : network_.graph.ops) {
      const auto place = places.find(op.name);
      if (place == places.end()) {
        nodes.push_back(NewNode(op));
        continue;
      }
      assertions_until(place->second);
      done = std::max(done, place->second + 1);
      nodes.push_back(Patched(old[place->second], op));
    }
    assertions_until(old.size());
    graph_["nodes"] = std::move(nodes);
  }

  /// Names of results that no op makes any more.
  std::set<std::string> ValuesGone() const {
    std::set<std::string> gone;
    for (const Value& value : network_.graph.values)
      if (value.kind == ValueKind::kResult) gone.insert(value.name);
    for (const Op& op : network_.graph.ops)
      for (const ValueId output : op.outputs)
        gone.erase(network_.graph.values[static_cast<size_t>(output)].name);
    return gone;
  }

  static bool Reads(const ordered_json& node, const std::set<std::string>& names) {
    return std::ranges::any_of(node.at("inputs"), [&](const ordered_json& input) {
      const ordered_json& arg = input.at("arg");
      return arg.contains("as_tensor") &&
             names.contains(arg.at("as_tensor").at("name").get<std::string>());
    });
  }

  /// An assertion about literal sizes may no longer hold.
  static bool ChecksSizes(const ordered_json& node) {
    for (const auto& input : node.at("inputs"))
      if (input.at("arg").contains("as_ints") || input.at("arg").contains("as_sym_ints"))
        return true;
    return false;
  }

  ordered_json Patched(ordered_json node, const Op& op) {
    if (node.contains("metadata") && node["metadata"].contains("nn_module_stack"))
      stacks_[op.module_path] = node["metadata"]["nn_module_stack"];
    if (node.at("target") != TargetOf(op)) {
      node["target"] = TargetOf(op);
      node["inputs"] = writer_.Inputs(op);
      node["outputs"] = writer_.Outputs(op);
      return node;
    }
    const auto& schema = op.handle.schema().arguments();
    std::vector<bool> given(schema.size(), false);
    for (auto& input : node.at("inputs")) {
      const int index = op.ArgIndex(input.at("name").get<std::string>());
      ESPALIER_CHECK(index >= 0, op.name, ": argument ", input.at("name").dump());
      const auto arg = static_cast<size_t>(index);
      given[arg] = true;
      if (!writer_.Says(json(input.at("arg")), schema[arg], op.args[arg]))
        input["arg"] = writer_.ArgJson(schema[arg], op.args[arg]);
    }
    for (size_t arg = 0; arg < schema.size(); ++arg)
      if (!given[arg] && !IsDefault(schema[arg], op.args[arg])) {
        node["inputs"] = writer_.Inputs(op);
        break;
      }
    return node;
  }

  ordered_json NewNode(const Op& op) const {
    const auto known = stacks_.find(op.module_path);
    ordered_json metadata = ordered_json::object();
    if (known != stacks_.end()) metadata["nn_module_stack"] = known->second;
    return {{"target", TargetOf(op)},
            {"inputs", writer_.Inputs(op)},
            {"outputs", writer_.Outputs(op)},
            {"metadata", std::move(metadata)},
            {"is_hop_single_tensor_return", nullptr},
            {"name", op.name}};
  }

  // ---- stored tensors ----

  /// New stored tensors stand in front of the inputs; sizes follow the store.
  void PatchStored() {
    ordered_json& specs = program_["graph_module"]["signature"]["input_specs"];
    ordered_json& inputs = graph_["inputs"];
    for (size_t i = specs.size(); i-- > 0;)
      if (IsGone(specs[i])) {
        graph_["tensor_values"].erase(
            specs[i].begin().value().at("arg").at("name").get<std::string>());
        specs.erase(i);
        inputs.erase(i);
      }
    std::map<std::string, bool> listed;  // values that have a spec
    size_t first_input = specs.size();
    for (size_t i = 0; i < specs.size(); ++i) {
      const ordered_json& spec = specs[i].begin().value();
      if (specs[i].contains("user_input") || specs[i].contains("constant_input")) {
        first_input = std::min(first_input, i);
      } else {
        listed[spec.at("arg").at("name").get<std::string>()] = true;
      }
    }
    const auto& values = network_.graph.values;
    for (size_t id = 0; id < values.size(); ++id) {
      if (values[id].target.empty()) continue;
      const std::string& name = writer_.Name(static_cast<ValueId>(id));
      const Tensor& tensor = network_.store.Get(values[id].target);
      ordered_json& all = graph_["tensor_values"];
      if (!all.contains(name) || !SameSizes(all[name].at("sizes"), tensor)) {
        ordered_json meta = StoredMeta(tensor, values[id].kind == ValueKind::kParameter, false);
        if (all.contains(name)) meta["requires_grad"] = all[name]["requires_grad"];
        all[name] = std::move(meta);
      }
      if (listed[name]) continue;
      listed[name] = true;
      const auto at = static_cast<std::ptrdiff_t>(first_input++);
      const ordered_json arg = {{"name", name}};
      ordered_json spec;
      if (values[id].kind == ValueKind::kParameter)
        spec["parameter"] = {{"arg", arg}, {"parameter_name", values[id].target}};
      else
        spec["buffer"] = {
            {"arg", arg},
            {"buffer_name", values[id].target},
            {"persistent", network_.store.Kind(values[id].target) != StoreKind::kConstant}};
      inputs.insert(inputs.begin() + at, TensorArgument(name));
      specs.insert(specs.begin() + at, spec);
    }
  }

  /// What the spec names is not stored any more.
  bool IsGone(const ordered_json& spec) const {
    const ordered_json& body = spec.begin().value();
    for (const char* key : {"parameter_name", "buffer_name", "tensor_constant_name"})
      if (body.contains(key)) return !network_.store.Has(body.at(key).get<std::string>());
    return false;
  }

  static bool SameSizes(const ordered_json& sizes, const Tensor& tensor) {
    if (static_cast<int64_t>(sizes.size()) != tensor.dim()) return false;
    for (size_t axis = 0; axis < sizes.size(); ++axis)
      if (sizes[axis].value("as_int", int64_t{-1}) != tensor.size(static_cast<int64_t>(axis)))
        return false;
    return true;
  }

  // ---- what the archive says about computed values ----

  void PatchValues() {
    const auto seen = RecordValues(network_, RecordedBatch(network_.graph));
    std::vector<SymbolicMeta> symbolic;  // only needed for values the archive did not know
    for (size_t id = 0; id < seen.size(); ++id) {
      const ValueRecord& value = seen[id];
      if (!value.computed || !network_.graph.values[id].target.empty()) continue;
      const std::string& name = writer_.Name(static_cast<ValueId>(id));
      ordered_json& all = graph_[value.is_int ? "sym_int_values" : "tensor_values"];
      if (all.contains(name)) {
        if (value.is_int)
          Follow(all[name], value.numbers.front());
        else
          FollowTensor(all[name], value);
        continue;
      }
      if (symbolic.empty()) symbolic = InferSymbolic(network_);
      all[name] = NewMeta(symbolic[id]);
    }
  }

  /// Sets a recorded size to what it is now; an open size keeps its symbols.
  void Follow(ordered_json& size, int64_t now) const {
    if (!size.contains("as_expr")) {
      size = {{"as_int", now}};
      return;
    }
    ordered_json& expression = size["as_expr"];
    const auto text = expression.at("expr_str").get<std::string>();
    const auto before = Evaluate(text, network_.graph.symbols);
    if (!before || *before == now) return;
    expression["expr_str"] = Rescaled(text, *before, now);
    if (expression.contains("hint") && !expression["hint"].is_null())
      expression["hint"] = {{"as_int", now}};
  }

  bool Differs(const ordered_json& size, int64_t now) const {
    if (!size.contains("as_expr")) return size.at("as_int").get<int64_t>() != now;
    const auto value =
        Evaluate(size["as_expr"].at("expr_str").get<std::string>(), network_.graph.symbols);
    return value && *value != now;
  }

  void FollowTensor(ordered_json& meta, const ValueRecord& value) const {
    const size_t rank = value.numbers.size() / 2;
    ordered_json &sizes = meta["sizes"], &strides = meta["strides"];
    if (sizes.size() != rank || strides.size() != rank) return;
    bool changed = false;
    for (size_t axis = 0; axis < rank; ++axis)
      changed = changed || Differs(sizes[axis], value.numbers[axis]);
    if (!changed) return;  // the exporter's strides may differ from this machine's: both are right
    for (size_t axis = 0; axis < rank; ++axis) {
      Follow(sizes[axis], value.numbers[axis]);
      Follow(strides[axis], value.numbers[rank + axis]);
    }
    Follow(meta["storage_offset"], value.numbers.back());
  }

  ordered_json NewMeta(const SymbolicMeta& meta) const {
    const int64_t batch = RecordedBatch(network_.graph);
    const auto to_json = [&](const Size& size) {
      const std::string& symbol = network_.graph.batch_symbol;
      if (symbol.empty()) return ordered_json{{"as_int", size.constant + batch * size.factor}};
      return SizeJson(size, symbol, batch);
    };
    if (meta.is_int) return to_json(meta.sizes.front());
    ordered_json sizes = ordered_json::array(), strides = ordered_json::array();
    for (const Size& size : meta.sizes) sizes.push_back(to_json(size));
    for (const Size& stride : meta.strides) strides.push_back(to_json(stride));
    return TensorMeta(meta.dtype, std::move(sizes), std::move(strides), to_json(meta.offset),
                      false);
  }

  void PatchOutputs() {
    ordered_json& specs = program_["graph_module"]["signature"]["output_specs"];
    size_t next = 0;
    for (size_t i = 0; i < specs.size(); ++i) {
      ordered_json& argument = specs[i]["user_output"]["arg"];
      if (!argument.contains("as_tensor")) continue;
      const std::string& name = writer_.Name(network_.graph.outputs.at(next++));
      argument["as_tensor"]["name"] = name;
      graph_["outputs"][i]["as_tensor"]["name"] = name;
    }
  }

  const Network& network_;
  ordered_json program_;
  ordered_json& graph_;
  NodeWriter writer_;
  std::map<std::string, ordered_json> stacks_;  // module path -> nn_module_stack of a node there
};

}  // namespace

ordered_json PatchedProgram(const Network& network, ordered_json program) {
  return ProgramPatcher(network, std::move(program)).Run();
}

}  // namespace espalier::pt2
