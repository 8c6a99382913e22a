#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/graph/checked_json.h"
#include "env/graph/io.h"
#include "env/graph/pt2_archive.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/pt2_inline.h"
#include "env/graph/pt2_inputs.h"
#include "env/graph/pt2_modules.h"
#include "env/graph/pt2_nodes.h"
#include "env/graph/pt2_schema.h"

namespace espalier {
namespace {

using nlohmann::json;

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

class ProgramReader {
 public:
  ProgramReader(pt2::Archive& archive, std::string entry)
      : archive_(archive), entry_(std::move(entry)) {}

  Network Read() {
    try {
      program_ = ParseCheckedJson(archive_.Text(entry_));
      CheckVersion();
      json& module = program_.at("graph_module");
      pt2::InlineSubgraphs(module);
      graph_ = &module.at("graph");
      ReadInputs(module.at("signature").at("input_specs"));
      ReadStore();
      const json& nodes = graph_->at("nodes");
      for (size_t i = 0; i < nodes.size(); ++i) ReadNode(nodes[i], i);
      ReadOutputs(module.at("signature").at("output_specs"));
      Validate(network_.graph);
      if (const auto samples = network_.extras.find(pt2::kSampleInputs);
          samples != network_.extras.end())
        pt2::AttachSamples(network_, samples->second);
      origin_["program"] = std::move(program_);
      origin_["module_types"] = module_types_;
      network_.extras[pt2::kOrigin] = origin_.dump();
    } catch (const json::exception& error) {
      archive_.Fail(entry_, error.what());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kModel || archive_.Named(error)) throw;
      throw Error(ErrorKind::kModel, Str(archive_.Place(entry_), ": ", error.message()),
                  error.hint());
    }
    return std::move(network_);
  }

 private:
  void CheckVersion() const {
    const json& version = program_.at("schema_version");
    const int64_t major = JsonMember(version, "major", IntOf);
    if (major != pt2::kSchemaMajor)
      throw Error(ErrorKind::kModel,
                  Str("it has schema version ", major, ", ", pt2::kSchemaMajor, " is supported"),
                  "export the model again with torch 2.9 or later");
  }

  ValueId AddValue(const std::string& name, ValueKind kind, std::string target, bool is_int) {
    const auto id = static_cast<ValueId>(network_.graph.values.size());
    if (!ids_.emplace(name, id).second) Fail("the value '", name, "' is defined twice");
    const bool result = kind == ValueKind::kResult;
    network_.graph.values.push_back(
        {name, kind, std::move(target),
         result ? static_cast<int32_t>(network_.graph.ops.size()) : -1});
    is_int_.push_back(is_int);
    return id;
  }

  ValueId IdOf(const json& name) const {
    const auto found = ids_.find(name.get_ref<const std::string&>());
    if (found == ids_.end())
      Fail("the value '", name.get<std::string>(), "' is not defined before");
    return found->second;
  }
  ValueId TensorId(const json& name) const {
    const ValueId id = IdOf(name);
    if (is_int_[static_cast<size_t>(id)])
      Fail("'", name.get<std::string>(), "' is a size where a tensor is expected");
    return id;
  }
  ValueId SizeId(const json& name) const {
    const ValueId id = IdOf(name);
    if (!is_int_[static_cast<size_t>(id)])
      Fail("'", name.get<std::string>(), "' is a tensor where a size is expected");
    return id;
  }

  // ---- inputs: parameters, buffers, constants, user inputs ----

  void ReadInputs(const json& specs) {
    for (const json& item : specs) {
      const std::string& kind = pt2::KeyOf(item);
      const json& spec = item.at(kind);
      if (kind == "parameter")
        AddStored(spec, "parameter_name", ValueKind::kParameter, StoreKind::kParameter);
      else if (kind == "buffer")
        AddStored(spec, "buffer_name", ValueKind::kBuffer,
                  spec.value("persistent", true) ? StoreKind::kBuffer : StoreKind::kConstant);
      else if (kind == "tensor_constant")
        AddStored(spec, "tensor_constant_name", ValueKind::kConstant, StoreKind::kConstant);
      else if (kind == "user_input")
        ReadUserInput(spec.at("arg"));
      else if (kind != "constant_input")  // those are literals in the nodes already
        Fail("graph inputs of kind '", kind, "' are not supported");
    }
  }

  void AddStored(const json& spec, const char* key, ValueKind kind, StoreKind store_kind) {
    const auto target = spec.at(key).get<std::string>();
    if (!kinds_.emplace(target, store_kind).second)
      Fail("the stored tensor '", target, "' is an input twice");
    AddValue(spec.at("arg").at("name").get<std::string>(), kind, target, false);
  }

  void ReadUserInput(const json& argument) {
    if (pt2::KeyOf(argument) != "as_tensor")
      Fail("a user input is ", argument.dump().substr(0, 100),
           ", only tensors and constants are supported");
    const auto name = argument.at("as_tensor").at("name").get<std::string>();
    InputSpec input = pt2::InputOf(name, graph_->at("tensor_values").at(name), network_.graph);
    input.value = AddValue(name, ValueKind::kInput, {}, false);
    network_.graph.inputs.push_back(std::move(input));
  }

  /// Every tensor of both configs, whether the graph reads it or not: they are the state dict.
  void ReadStore() {
    const std::string model = entry_.substr(7, entry_.size() - 12);  // models/<model>.json
    const std::string weights = Str(pt2::kWeightsFolder, model, "_weights_config.json");
    const std::string pickled = Str(pt2::kWeightsFolder, model, ".pt");
    if (!archive_.Has(weights) && archive_.Has(pickled))
      AddTensors(pt2::ReadStateDict(archive_, pickled), pickled, StoreKind::kBuffer);
    else
      AddFolder("weights_config", weights, pt2::kWeightsFolder, StoreKind::kBuffer);
    const std::string constants = Str(pt2::kConstantsFolder, model, "_constants_config.json");
    const std::string pickled_constants = Str(pt2::kConstantsFolder, model, ".pt");
    if (archive_.Has(constants))
      AddFolder("constants_config", constants, pt2::kConstantsFolder, StoreKind::kConstant);
    else if (archive_.Has(pickled_constants))
      AddTensors(pt2::ReadStateDict(archive_, pickled_constants), pickled_constants,
                 StoreKind::kConstant);
    for (const auto& [target, kind] : kinds_)
      if (!network_.store.Has(target))
        Fail("the graph reads the stored tensor '", target, "', which neither config lists");
    const std::string samples = Str("data/sample_inputs/", model, ".pt");
    if (archive_.Has(samples)) network_.extras[pt2::kSampleInputs] = archive_.Text(samples);
    for (const std::string& entry : archive_.entries())
      if (entry.starts_with(pt2::kExtraFolder)) network_.extras[entry] = archive_.Text(entry);
  }

  void AddFolder(const char* key, const std::string& config, const char* folder,
                 StoreKind fallback) {
    AddTensors(pt2::ReadTensors(archive_, config, folder), config, fallback);
    origin_[key] = json::parse(archive_.Text(config));
  }

  void AddTensors(std::vector<pt2::StoredTensor> tensors, const std::string& config,
                  StoreKind fallback) {
    for (pt2::StoredTensor& item : tensors) {
      if (network_.store.Has(item.name)) archive_.Fail(config, "'", item.name, "' is stored twice");
      if (!item.tied_to.empty()) {
        network_.store.Tie(item.name, item.tied_to);
        continue;
      }
      const auto known = kinds_.find(item.name);
      const StoreKind kind = known != kinds_.end() ? known->second
                             : item.is_parameter   ? StoreKind::kParameter
                                                   : fallback;
      network_.store.Add(item.name, std::move(item.tensor), kind);
    }
  }

  // ---- nodes ----

  pt2::ModulePlace PlaceOf(const json& node) {
    const auto metadata = node.find("metadata");
    if (metadata == node.end() || !metadata->contains("nn_module_stack")) return {};
    const auto stack = pt2::ParseModuleStack(metadata->at("nn_module_stack").get<std::string>());
    for (const pt2::ModulePlace& module : stack) module_types_.emplace(module.path, module.type);
    return stack.empty() ? pt2::ModulePlace() : stack.back();
  }

  void ReadNode(const json& node, size_t index) {
    const auto target = node.at("target").get<std::string>();
    const pt2::ModulePlace place = PlaceOf(node);
    if (pt2::IsAssertion(node)) return;
    const std::string where = Str("node ", index, " (", target, " at '", place.path, "'): ");
    try {
      Op op{.name = {},
            .handle = pt2::OperatorOf(target),
            .args = {},
            .outputs = {},
            .returns_list = false,
            .module_path = place.path,
            .module_type = place.type};
      ReadArguments(node.at("inputs"), op);
      ReadResults(node.at("outputs"), op);
      op.name = pt2::NodeName(node, index);
      network_.graph.ops.push_back(std::move(op));
    } catch (const json::exception& error) {
      Fail(where, error.what());
    } catch (const Error& error) {
      throw Error(ErrorKind::kModel, where + error.message(), error.hint());
    }
  }

  void ReadArguments(const json& inputs, Op& op) const {
    const auto& schema = op.handle.schema().arguments();
    std::map<std::string, const json*> given;
    for (const json& input : inputs) {
      const auto name = input.at("name").get<std::string>();
      if (op.ArgIndex(name) < 0) Fail("the operator has no argument '", name, "'");
      if (!given.emplace(name, &input.at("arg")).second) Fail("argument '", name, "' stands twice");
    }
    for (const c10::Argument& argument : schema) {
      const auto found = given.find(argument.name());
      if (found == given.end()) {
        if (!argument.default_value()) Fail("argument '", argument.name(), "' is missing");
        op.args.emplace_back(*argument.default_value());
        continue;
      }
      try {
        op.args.push_back(ArgOf(argument, *found->second));
      } catch (const json::exception& error) {
        Fail("argument '", argument.name(), "': ", error.what());
      } catch (const Error& error) {
        Fail("argument '", argument.name(), "': ", error.message());
      }
    }
  }

  Arg ArgOf(const c10::Argument& argument, const json& item) const {
    if (auto constant = pt2::ConstantOf(argument, item)) return std::move(*constant);
    const std::string& kind = pt2::KeyOf(item);
    const json& value = item.at(kind);
    if (kind == "as_sym_int" || kind == "as_sym_ints") return SizesOf(argument, value);
    if (kind == "as_optional_tensor") return ArgOf(argument, value);
    if (kind == "as_tensor") {
      const ValueId id = TensorId(value.at("name"));
      if (pt2::BareKind(argument.type()) != c10::TypeKind::TensorType)
        Fail("a tensor stands where the schema takes ", argument.type()->str());
      return id;
    }
    if (!pt2::TakesTensorList(argument))
      Fail("a list of tensors stands where the schema takes ", argument.type()->str());
    ValueList list;
    for (const json& element : value) {
      if (kind == "as_tensors")
        list.ids.push_back(TensorId(element.at("name")));
      else if (pt2::KeyOf(element) == "as_none")
        list.ids.push_back(kNoValue);
      else
        list.ids.push_back(TensorId(element.at("as_tensor").at("name")));
    }
    return list;
  }

  /// Symbolic sizes: one value, or a list that mixes values and numbers.
  Arg SizesOf(const c10::Argument& argument, const json& value) const {
    const auto kind = pt2::BareKind(argument.type());
    if (!value.is_array()) {
      if (pt2::KeyOf(value) == "as_int") return *pt2::ConstantOf(argument, value);
      const ValueId id = SizeId(value.at("as_name"));
      if (kind == c10::TypeKind::IntType || kind == c10::TypeKind::NumberType ||
          kind == c10::TypeKind::TensorType)
        return id;
      if (kind != c10::TypeKind::ListType)
        Fail("a size stands where the schema takes ", argument.type()->str());
      return ScalarList{std::vector<std::variant<int64_t, ValueId>>(
          static_cast<size_t>(argument.N().value_or(1)), id)};
    }
    ScalarList list;
    json plain = json::array();
    for (const json& element : value) {
      if (pt2::KeyOf(element) == "as_int") {
        plain.push_back(element.at("as_int"));
        list.items.emplace_back(JsonMember(element, "as_int", IntOf));
      } else {
        list.items.emplace_back(SizeId(element.at("as_name")));
      }
    }
    if (plain.size() == list.items.size())
      return *pt2::ConstantOf(argument, json{{"as_ints", std::move(plain)}});
    if (kind != c10::TypeKind::ListType || pt2::TakesTensorList(argument))
      Fail("a list of sizes stands where the schema takes ", argument.type()->str());
    return list;
  }

  ValueId AddResult(const json& tensor) {
    const auto name = tensor.at("name").get<std::string>();
    const auto& known = graph_->at("tensor_values");
    if (const auto meta = known.find(name); meta != known.end())
      if (const std::string symbol = pt2::DataDependentSize(*meta); !symbol.empty())
        throw Error(ErrorKind::kModel,
                    Str("the shape of its result '", name, "' depends on data (", symbol, ")"),
                    "shapes may follow the sizes of the inputs, not their values");
    return AddValue(name, ValueKind::kResult, {}, false);
  }

  void ReadResults(const json& outputs, Op& op) {
    const auto& returns = op.handle.schema().returns();
    if (returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType) {
      op.returns_list = true;
      if (outputs.size() != 1) Fail("one list of results is expected, not ", outputs.size());
      for (const json& item : outputs[0].at("as_tensors")) op.outputs.push_back(AddResult(item));
      return;
    }
    if (returns.empty()) return;  // assertions: nothing to keep
    if (outputs.size() != returns.size())
      Fail(outputs.size(), " results are listed, the operator returns ", returns.size());
    for (size_t i = 0; i < returns.size(); ++i) {
      const std::string& kind = pt2::KeyOf(outputs[i]);
      const auto type = pt2::BareKind(returns[i].type());
      if (kind == "as_tensor" && type == c10::TypeKind::TensorType)
        op.outputs.push_back(AddResult(outputs[i].at(kind)));
      else if (kind == "as_sym_int" && type == c10::TypeKind::IntType)
        op.outputs.push_back(AddValue(outputs[i].at(kind).at("as_name").get<std::string>(),
                                      ValueKind::kResult, {}, true));
      else if (kind == "as_none")
        op.outputs.push_back(
            AddValue(Str("unused_", network_.graph.values.size()), ValueKind::kResult, {}, false));
      else if (kind.starts_with("as_sym_"))
        throw Error(ErrorKind::kModel, "its result is a number that depends on data",
                    "control flow and shapes that depend on values are not supported");
      else
        Fail("a result of kind '", kind, "' for type ", returns[i].type()->str(),
             " is not supported");
    }
  }

  void ReadOutputs(const json& specs) {
    for (const json& item : specs) {
      const std::string& kind = pt2::KeyOf(item);
      if (kind != "user_output")
        throw Error(ErrorKind::kModel, Str("graph outputs of kind '", kind, "' are not supported"),
                    "export the model in eval mode: model.eval()");
      const json& argument = item.at(kind).at("arg");
      // Other outputs (None, numbers, sizes) are no tensors: they stand in the origin, untouched.
      if (pt2::KeyOf(argument) == "as_tensor")
        network_.graph.outputs.push_back(TensorId(argument.at("as_tensor").at("name")));
    }
    if (network_.graph.outputs.empty()) Fail("the network has no output that is a tensor");
  }

  pt2::Archive& archive_;
  std::string entry_;
  json program_;
  const json* graph_ = nullptr;
  Network network_;
  std::map<std::string, ValueId> ids_;
  std::vector<bool> is_int_;                         // by value id
  std::map<std::string, StoreKind> kinds_;           // of the stored tensors the graph lists
  std::map<std::string, std::string> module_types_;  // path -> class
  json origin_ = json::object();
};

std::string FindModel(const pt2::Archive& archive) {
  if (archive.Has(pt2::kModelEntry)) return pt2::kModelEntry;
  std::vector<std::string> models;
  for (const std::string& entry : archive.entries())
    if (entry.starts_with("models/") && entry.ends_with(".json")) models.push_back(entry);
  if (models.size() == 1) return models.front();
  if (models.empty() && archive.Has("serialized_exported_program.json"))
    throw Error(
        ErrorKind::kModel,
        Str(archive.Place("serialized_exported_program.json"), ": a format before torch 2.8"),
        "load and save it again with torch 2.9 or later");
  if (models.empty())
    archive.Fail(pt2::kModelEntry, "it is missing: this is no torch.export archive");
  archive.Fail(models.front(), "the archive holds ", models.size(),
               " models and none is named 'model'");
}

}  // namespace

Network ReadPt2(const std::filesystem::path& path) {
  pt2::Archive archive(path);
  if (archive.Has("byteorder") && archive.Text("byteorder") != "little")
    archive.Fail("byteorder", "only little-endian archives are supported");
  Network network = ProgramReader(archive, FindModel(archive)).Read();
  network.name = path.stem().string();
  return network;
}

}  // namespace espalier
