#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <nlohmann/json.hpp>
#include <set>

#include "env/base/error.h"
#include "env/graph/archive_writer.h"
#include "env/graph/io.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/pt2_modules.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/pt2_symbols.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

ordered_json CpuDevice() { return {{"type", "cpu"}, {"index", nullptr}}; }

/// Name -> JSON, for arguments and results that are tensors.
ordered_json TensorArgument(const std::string& name) { return {{"as_tensor", {{"name", name}}}}; }

/// Turns names into distinct Python identifiers.
class NameTable {
 public:
  std::string Unique(std::string wanted) {
    for (char& c : wanted)
      if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    if (wanted.empty() || std::isdigit(static_cast<unsigned char>(wanted.front())))
      wanted = "v_" + wanted;
    std::string name = wanted;
    for (int64_t i = 1; !taken_.insert(name).second; ++i) name = Str(wanted, "_", i);
    return name;
  }

 private:
  std::set<std::string> taken_;
};

/// One stored tensor as the archive sees it: a placeholder of the graph.
struct Stored {
  std::string target;
  std::string value;  ///< name of the placeholder
  ValueKind kind;
};

class ProgramWriter {
 public:
  explicit ProgramWriter(const Network& network)
      : network_(network), meta_(pt2::InferSymbolic(network)) {
    if (const auto found = network.extras.find(pt2::kOrigin); found != network.extras.end())
      origin_ = ordered_json::parse(found->second);
    std::vector<pt2::ModulePlace> places;
    for (const Op& op : network.graph.ops) places.push_back({op.module_path, op.module_type});
    modules_.emplace(places, origin_.value("module_types", std::map<std::string, std::string>()));
    NameValues();
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
    if (UsesBatch()) ranges[pt2::kBatchSymbol] = {{"min_val", 1}, {"max_val", nullptr}};
    return {{"graph_module",
             {{"graph", std::move(graph)},
              {"signature", Signature()},
              {"module_call_graph", CallGraph()},
              {"metadata", ordered_json::object()},
              {"treespec_namedtuple_fields", ordered_json::object()}}},
            {"opset_version", {{"aten", 10}}},
            {"range_constraints", std::move(ranges)},
            {"schema_version", {{"major", pt2::kSchemaMajor}, {"minor", pt2::kSchemaMinor}}},
            {"verifiers", {"TRAINING"}},
            {"guards_code", ordered_json::array()}};
  }

  static ordered_json StoredMeta(const Tensor& tensor, bool is_parameter) {
    ordered_json sizes = ordered_json::array(), strides = ordered_json::array();
    const Tensor plain = tensor.detach().contiguous();
    for (const int64_t size : plain.sizes()) sizes.push_back({{"as_int", size}});
    for (const int64_t stride : plain.strides()) strides.push_back({{"as_int", stride}});
    return Meta(tensor.scalar_type(), std::move(sizes), std::move(strides), {{"as_int", 0}},
                is_parameter && tensor.is_floating_point());
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

  static ordered_json Meta(at::ScalarType dtype, ordered_json sizes, ordered_json strides,
                           ordered_json offset, bool requires_grad) {
    const auto number = pt2::DtypeNumber(dtype);
    if (!number)
      throw Error(ErrorKind::kModel,
                  Str("dtype ", c10::toString(dtype), " has no number in the archive format"));
    return {{"dtype", *number},
            {"sizes", std::move(sizes)},
            {"requires_grad", requires_grad},
            {"device", CpuDevice()},
            {"strides", std::move(strides)},
            {"storage_offset", std::move(offset)},
            {"layout", *pt2::LayoutNumber(at::kStrided)}};
  }

  ordered_json TensorValues() const {
    ordered_json all = ordered_json::object();
    for (const Stored& item : stored_)
      all[item.value] =
          StoredMeta(network_.store.Get(item.target), item.kind == ValueKind::kParameter);
    for (size_t id = 0; id < meta_.size(); ++id) {
      const pt2::SymbolicMeta& meta = meta_[id];
      if (meta.is_int || !meta.computed || !network_.graph.values[id].target.empty()) continue;
      ordered_json sizes = ordered_json::array(), strides = ordered_json::array();
      for (const pt2::Size& size : meta.sizes) sizes.push_back(pt2::SizeJson(size));
      for (const pt2::Size& stride : meta.strides) strides.push_back(pt2::SizeJson(stride));
      all[names_[id]] = Meta(meta.dtype, std::move(sizes), std::move(strides),
                             pt2::SizeJson(meta.offset), /*requires_grad=*/false);
    }
    return all;
  }

  ordered_json IntValues() const {
    ordered_json all = ordered_json::object();
    for (size_t id = 0; id < meta_.size(); ++id)
      if (meta_[id].is_int) all[names_[id]] = pt2::SizeJson(meta_[id].sizes.front());
    return all;
  }

  ordered_json Node(const Op& op) {
    const auto& schema = op.handle.schema();
    ordered_json inputs = ordered_json::array();
    // Positional arguments without gaps up to the last one that is no default; keywords as needed.
    size_t positional = 0;
    for (size_t i = 0; i < op.args.size(); ++i)
      if (!schema.arguments()[i].kwarg_only() && !IsDefault(schema.arguments()[i], op.args[i]))
        positional = i + 1;
    for (size_t i = 0; i < op.args.size(); ++i) {
      const c10::Argument& argument = schema.arguments()[i];
      if (argument.kwarg_only() ? IsDefault(argument, op.args[i]) : i >= positional) continue;
      try {
        inputs.push_back({{"name", argument.name()},
                          {"arg", ArgJson(argument, op.args[i])},
                          {"kind", argument.kwarg_only() ? 2 : 1}});
      } catch (const Error& error) {
        throw Error(ErrorKind::kModel,
                    Str("cannot write argument '", argument.name(), "' of op '", op.name, "' (",
                        op.target(), " at '", op.module_path, "'): ", error.message()));
      }
    }
    ordered_json outputs = ordered_json::array();
    if (op.returns_list) {
      ordered_json names = ordered_json::array();
      for (const ValueId output : op.outputs) names.push_back({{"name", Name(output)}});
      outputs.push_back({{"as_tensors", std::move(names)}});
    } else {
      for (const ValueId output : op.outputs) outputs.push_back(ValueJson(output));
    }
    const bool named_by_result = op.outputs.size() == 1 && !op.returns_list;
    return {{"target", pt2::TargetOf(op)},
            {"inputs", std::move(inputs)},
            {"outputs", std::move(outputs)},
            {"metadata", {{"nn_module_stack", modules_->Next(op.module_path)}}},
            {"is_hop_single_tensor_return", nullptr},
            {"name", named_by_result ? Name(op.outputs.front()) : unique_.Unique(op.name)}};
  }

  static bool IsDefault(const c10::Argument& argument, const Arg& arg) {
    const auto* constant = std::get_if<c10::IValue>(&arg);
    return constant && argument.default_value() && *constant == *argument.default_value();
  }

  ordered_json ValueJson(ValueId id) const {
    if (meta_[static_cast<size_t>(id)].is_int) return {{"as_sym_int", {{"as_name", Name(id)}}}};
    return TensorArgument(Name(id));
  }

  ordered_json ArgJson(const c10::Argument& argument, const Arg& arg) const {
    if (const auto* constant = std::get_if<c10::IValue>(&arg))
      return pt2::ConstantJson(argument, *constant);
    if (const auto* id = std::get_if<ValueId>(&arg))
      return *id == kNoValue ? ordered_json{{"as_none", true}} : ValueJson(*id);
    ordered_json items = ordered_json::array();
    if (const auto* scalars = std::get_if<ScalarList>(&arg)) {
      for (const auto& item : scalars->items) {
        if (const auto* id = std::get_if<ValueId>(&item))
          items.push_back({{"as_name", Name(*id)}});
        else
          items.push_back({{"as_int", std::get<int64_t>(item)}});
      }
      return {{"as_sym_ints", std::move(items)}};
    }
    const auto& ids = std::get<ValueList>(arg).ids;
    const bool gaps = std::find(ids.begin(), ids.end(), kNoValue) != ids.end();
    for (const ValueId id : ids) {
      if (!gaps)
        items.push_back({{"name", Name(id)}});
      else
        items.push_back(id == kNoValue ? ordered_json{{"as_none", true}} : ValueJson(id));
    }
    return {{gaps ? "as_optional_tensors" : "as_tensors", std::move(items)}};
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
    if (origin_.contains("module_call_graph")) return origin_["module_call_graph"];
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
  std::vector<pt2::SymbolicMeta> meta_;  // by value id
  ordered_json origin_ = ordered_json::object();
  NameTable unique_;
  std::vector<std::string> names_;  // by value id
  std::vector<Stored> stored_;
  std::optional<pt2::ModuleStackWriter> modules_;
};

/// The raw tensors of one folder; tied names share one record. Returns the folder's config.
class TensorFolder {
 public:
  TensorFolder(caffe2::serialize::PyTorchStreamWriter& writer, std::string prefix)
      : writer_(writer), prefix_(std::move(prefix)) {}

  void Add(const ParameterStore& store, const std::string& target, bool is_parameter) {
    const Tensor tensor = store.Get(target).detach().cpu().contiguous();
    const std::string& canonical = store.Canonical(target);
    auto found = records_.find(canonical);
    if (found == records_.end()) {
      found = records_.emplace(canonical, Str(prefix_, records_.size())).first;
      const std::string folder = prefix_ == "tensor_" ? pt2::kConstantsFolder : pt2::kWeightsFolder;
      writer_.writeRecord(folder + found->second, tensor.const_data_ptr(), tensor.nbytes());
    }
    config_[target] = {{"path_name", found->second},
                       {"is_param", is_parameter},
                       {"use_pickle", false},
                       {"tensor_meta", ProgramWriter::StoredMeta(tensor, is_parameter)}};
  }
  ordered_json Config() const { return {{"config", config_}}; }

 private:
  caffe2::serialize::PyTorchStreamWriter& writer_;
  std::string prefix_;
  std::map<std::string, std::string> records_;  // canonical name -> record
  ordered_json config_ = ordered_json::object();
};

}  // namespace

void WritePt2(const std::filesystem::path& path, const Network& network) {
  ProgramWriter program(network);
  const std::string model = program.Program().dump();
  WriteArchive(path, [&](caffe2::serialize::PyTorchStreamWriter& writer) {
    const auto put = [&](const std::string& name, const std::string& bytes) {
      writer.writeRecord(name, bytes.data(), bytes.size());
    };
    TensorFolder weights(writer, "weight_"), constants(writer, "tensor_");
    for (const std::string& target : network.store.names()) {  // the order of the state dict
      const StoreKind kind = network.store.Kind(target);
      (kind == StoreKind::kConstant ? constants : weights)
          .Add(network.store, target, kind == StoreKind::kParameter);
    }
    put(pt2::kWeightsConfig, weights.Config().dump());
    put(pt2::kConstantsConfig, constants.Config().dump());
    put(pt2::kModelEntry, model);
    const auto samples = network.extras.find(pt2::kSampleInputs);
    put(pt2::kSampleInputs, samples == network.extras.end() ? "" : samples->second);
    put("archive_format", "pt2");
    put("archive_version", "0");
    put("byteorder", "little");
    for (const auto& [name, bytes] : network.extras)
      if (name.starts_with(pt2::kExtraFolder)) put(name, bytes);
  });
}

}  // namespace espalier
