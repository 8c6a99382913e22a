#include "env/graph/pt2_program.h"

#include <ATen/ATen.h>
#include <c10/util/strides.h>

#include <map>
#include <optional>

#include "env/base/error.h"
#include "env/graph/pt2_modules.h"
#include "env/graph/pt2_nodes.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/pt2_symbols.h"

namespace espalier::pt2 {
namespace {

using nlohmann::ordered_json;

/// One stored tensor as the archive sees it: a placeholder of the graph.
struct Stored {
  std::string target;
  std::string value;  ///< name of the placeholder
  ValueKind kind;
};

class ProgramWriter {
 public:
  explicit ProgramWriter(const Network& network)
      : network_(network), meta_(InferSymbolic(network)) {
    std::vector<ModulePlace> places;
    for (const Op& op : network.graph.ops) places.push_back({op.module_path, op.module_type});
    modules_.emplace(places, std::map<std::string, std::string>());
    NameValues();
    writer_.emplace(network.graph, names_);
  }

  ordered_json Program() {
    ordered_json nodes = ordered_json::array();
    for (const Op& op : network_.graph.ops) nodes.push_back(Node(op));
    ordered_json graph = {{"inputs", ordered_json::array()},
                          {"outputs", ordered_json::array()},
                          {"nodes", std::move(nodes)},
                          {"tensor_values", TensorValues()},
                          {"sym_int_values", IntValues()},
                          {"sym_bool_values", ordered_json::object()},
                          {"is_single_tensor_return", false},
                          {"custom_obj_values", ordered_json::object()},
                          {"sym_float_values", ordered_json::object()}};
    for (const Stored& item : stored_) graph["inputs"].push_back(TensorArgument(item.value));
    for (const InputSpec& input : network_.graph.inputs)
      graph["inputs"].push_back(TensorArgument(Name(input.value)));
    for (const ValueId output : network_.graph.outputs)
      graph["outputs"].push_back(TensorArgument(Name(output)));
    ordered_json ranges = ordered_json::object();
    if (UsesBatch()) ranges[kBatchSymbol] = {{"min_val", 1}, {"max_val", nullptr}};
    return {{"graph_module",
             {{"graph", std::move(graph)},
              {"signature", Signature()},
              {"module_call_graph", CallGraph()},
              {"metadata", ordered_json::object()},
              {"treespec_namedtuple_fields", ordered_json::object()}}},
            {"opset_version", {{"aten", 10}}},
            {"range_constraints", std::move(ranges)},
            {"schema_version", {{"major", kSchemaMajor}, {"minor", kSchemaMinor}}},
            {"verifiers", {"TRAINING"}},
            {"guards_code", ordered_json::array()}};
  }

 private:
  const std::string& Name(ValueId id) const { return names_.at(static_cast<size_t>(id)); }

  bool UsesBatch() const {
    for (const InputSpec& input : network_.graph.inputs)
      if (input.dynamic_batch && !input.sizes.empty()) return true;
    return false;
  }

  /// Placeholders first (as torch orders them: parameters, buffers, constants), then the rest.
  void NameValues() {
    const auto& values = network_.graph.values;
    names_.resize(values.size());
    std::map<std::string, ValueId> readers;
    for (size_t id = 0; id < values.size(); ++id)
      if (!values[id].target.empty()) readers.emplace(values[id].target, static_cast<ValueId>(id));
    for (const ValueKind kind : {ValueKind::kParameter, ValueKind::kBuffer, ValueKind::kConstant})
      for (const std::string& target : network_.store.names()) {
        const auto reader = readers.find(target);
        const bool read = reader != readers.end();
        if (KindOf(target, read ? &values[static_cast<size_t>(reader->second)] : nullptr) != kind)
          continue;
        const char* prefix = kind == ValueKind::kParameter ? "p_"
                             : kind == ValueKind::kBuffer  ? "b_"
                                                           : "c_";
        const std::string name = unique_.Unique(
            read ? values[static_cast<size_t>(reader->second)].name : prefix + target);
        stored_.push_back({target, name, kind});
        // Every value that reads this tensor becomes the same placeholder.
        for (size_t id = 0; id < values.size(); ++id)
          if (values[id].target == target) names_[id] = name;
      }
    for (const InputSpec& input : network_.graph.inputs)
      names_[static_cast<size_t>(input.value)] =
          unique_.Unique(values[static_cast<size_t>(input.value)].name);
    for (size_t id = 0; id < values.size(); ++id)
      if (names_[id].empty()) names_[id] = unique_.Unique(values[id].name);
  }

  ValueKind KindOf(const std::string& target, const Value* reader) const {
    if (reader) return reader->kind;
    switch (network_.store.Kind(target)) {
      case StoreKind::kParameter:
        return ValueKind::kParameter;
      case StoreKind::kBuffer:
        return ValueKind::kBuffer;
      default:
        return ValueKind::kConstant;
    }
  }

  ordered_json TensorValues() const {
    ordered_json all = ordered_json::object();
    for (const Stored& item : stored_)
      all[item.value] =
          StoredMeta(network_.store.Get(item.target), item.kind == ValueKind::kParameter,
                     /*keep_strides=*/false);
    for (size_t id = 0; id < meta_.size(); ++id) {
      const SymbolicMeta& meta = meta_[id];
      if (meta.is_int || !meta.computed || !network_.graph.values[id].target.empty()) continue;
      ordered_json sizes = ordered_json::array(), strides = ordered_json::array();
      for (const Size& size : meta.sizes) sizes.push_back(Json(size));
      for (const Size& stride : meta.strides) strides.push_back(Json(stride));
      all[names_[id]] = TensorMeta(meta.dtype, std::move(sizes), std::move(strides),
                                   Json(meta.offset), /*requires_grad=*/false);
    }
    return all;
  }

  ordered_json IntValues() const {
    ordered_json all = ordered_json::object();
    for (size_t id = 0; id < meta_.size(); ++id)
      if (meta_[id].is_int) all[names_[id]] = Json(meta_[id].sizes.front());
    return all;
  }

  static ordered_json Json(const Size& size) { return SizeJson(size, kBatchSymbol, kBatchHint); }

  ordered_json Node(const Op& op) {
    const bool named_by_result = op.outputs.size() == 1 && !op.returns_list;
    return {{"target", TargetOf(op)},
            {"inputs", writer_->Inputs(op)},
            {"outputs", writer_->Outputs(op)},
            {"metadata", {{"nn_module_stack", modules_->Next(op.module_path)}}},
            {"is_hop_single_tensor_return", nullptr},
            {"name", named_by_result ? Name(op.outputs.front()) : unique_.Unique(op.name)}};
  }

  ordered_json Signature() const {
    ordered_json inputs = ordered_json::array(), outputs = ordered_json::array();
    for (const Stored& item : stored_) {
      const ordered_json arg = {{"name", item.value}};
      if (item.kind == ValueKind::kParameter)
        inputs.push_back({{"parameter", {{"arg", arg}, {"parameter_name", item.target}}}});
      else if (item.kind == ValueKind::kBuffer)
        inputs.push_back(
            {{"buffer",
              {{"arg", arg},
               {"buffer_name", item.target},
               {"persistent", network_.store.Kind(item.target) != StoreKind::kConstant}}}});
      else
        inputs.push_back(
            {{"tensor_constant", {{"arg", arg}, {"tensor_constant_name", item.target}}}});
    }
    for (const InputSpec& input : network_.graph.inputs)
      inputs.push_back({{"user_input", {{"arg", TensorArgument(Name(input.value))}}}});
    for (const ValueId output : network_.graph.outputs)
      outputs.push_back({{"user_output", {{"arg", TensorArgument(Name(output))}}}});
    return {{"input_specs", std::move(inputs)}, {"output_specs", std::move(outputs)}};
  }

  /// The root entry: how Python's arguments and results are nested.
  ordered_json CallGraph() const {
    const auto leaves = [](size_t count) {
      ordered_json list = ordered_json::array();
      for (size_t i = 0; i < count; ++i)
        list.push_back(
            {{"type", nullptr}, {"context", nullptr}, {"children_spec", ordered_json::array()}});
      return list;
    };
    const auto tuple = [](ordered_json children) -> ordered_json {
      return {
          {"type", "builtins.tuple"}, {"context", "null"}, {"children_spec", std::move(children)}};
    };
    const ordered_json no_keywords = {
        {"type", "builtins.dict"}, {"context", "[]"}, {"children_spec", ordered_json::array()}};
    const size_t inputs = network_.graph.inputs.size(), outputs = network_.graph.outputs.size();
    const auto spec = [](ordered_json tree) {
      return ordered_json::array({1, std::move(tree)}).dump();
    };
    ordered_json names = ordered_json::array();
    for (const InputSpec& input : network_.graph.inputs) names.push_back(Name(input.value));
    const ordered_json signature = {
        {"inputs", ordered_json::array()},
        {"outputs", ordered_json::array()},
        {"in_spec", spec(tuple(ordered_json::array({tuple(leaves(inputs)), no_keywords})))},
        {"out_spec", spec(outputs == 1 ? leaves(1)[0] : tuple(leaves(outputs)))},
        {"forward_arg_names", std::move(names)}};
    return ordered_json::array({{{"fqn", ""}, {"signature", signature}}});
  }

  const Network& network_;
  std::vector<SymbolicMeta> meta_;  // by value id
  NameTable unique_;
  std::vector<std::string> names_;  // by value id
  std::vector<Stored> stored_;
  std::optional<ModuleStackWriter> modules_;
  std::optional<NodeWriter> writer_;
};

}  // namespace

std::string NameTable::Unique(std::string wanted) {
  for (char& c : wanted)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  if (wanted.empty() || std::isdigit(static_cast<unsigned char>(wanted.front())))
    wanted = "v_" + wanted;
  std::string name = wanted;
  for (int64_t i = 1; !taken_.insert(name).second; ++i) name = Str(wanted, "_", i);
  return name;
}

ordered_json TensorMeta(at::ScalarType dtype, ordered_json sizes, ordered_json strides,
                        ordered_json offset, bool requires_grad) {
  const auto number = DtypeNumber(dtype);
  if (!number)
    throw Error(ErrorKind::kModel,
                Str("dtype ", c10::toString(dtype), " has no number in the archive format"));
  return {{"dtype", *number},
          {"sizes", std::move(sizes)},
          {"requires_grad", requires_grad},
          {"device", {{"type", "cpu"}, {"index", nullptr}}},
          {"strides", std::move(strides)},
          {"storage_offset", std::move(offset)},
          {"layout", *LayoutNumber(at::kStrided)}};
}

ordered_json StoredMeta(const Tensor& tensor, bool is_parameter, bool keep_strides) {
  ordered_json sizes = ordered_json::array(), strides = ordered_json::array();
  const auto plain = c10::contiguous_strides(tensor.sizes());
  for (const int64_t size : tensor.sizes()) sizes.push_back({{"as_int", size}});
  for (const int64_t stride : keep_strides ? tensor.strides() : at::IntArrayRef(plain))
    strides.push_back({{"as_int", stride}});
  return TensorMeta(tensor.scalar_type(), std::move(sizes), std::move(strides),
                    {{"as_int", keep_strides ? tensor.storage_offset() : 0}},
                    is_parameter && tensor.is_floating_point());
}

ordered_json NewProgram(const Network& network) { return ProgramWriter(network).Program(); }

}  // namespace espalier::pt2
