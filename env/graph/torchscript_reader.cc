#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/log.h"
#include "env/graph/io.h"
#include "env/graph/pt2_archive.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/sample_inputs.h"
#include "env/graph/script_interpreter.h"
#include "env/graph/torchscript.h"

namespace espalier {
namespace {

using script::As;
using script::Item;

constexpr int kMaxNesting = 200;         // brackets within brackets in the code
constexpr size_t kMaxLine = 4ull << 20;  // bytes; state lists of large models are one line
constexpr int kMaxModuleDepth = 100;
constexpr size_t kMaxStored = 1'000'000;  // names

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

bool IsCode(const std::string& entry) {
  return entry.starts_with("code/") && entry.ends_with(".py");
}

/// The parser of the code is recursive: refuses what would exhaust its stack.
void CheckNesting(const pt2::Archive& archive, const std::string& entry, const std::string& code) {
  int depth = 0;
  size_t line_start = 0;
  char quote = 0;
  for (size_t i = 0; i < code.size(); ++i) {
    const char c = code[i];
    if (c == '\n') {
      if (i - line_start > kMaxLine) archive.Fail(entry, "a line has ", i - line_start, " bytes");
      line_start = i + 1;
    }
    if (quote) {
      if (c == '\\') ++i;
      if (c == quote || c == '\n') quote = 0;
      continue;
    }
    if (c == '"' || c == '\'') quote = c;
    if (c == '#') {  // a comment
      i = std::min(code.find('\n', i), code.size()) - 1;
      continue;
    }
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (c == ')' || c == ']' || c == '}') --depth;
    if (depth < 0) archive.Fail(entry, "byte ", i, ": closes a bracket that is not open");
    if (depth > kMaxNesting)
      archive.Fail(entry, "byte ", i, ": brackets are nested deeper than ", kMaxNesting);
  }
}

/// The parser looks for the end of an import's line and never gives up: refuses imports of anything
/// but a plain name, and a last line without end.
void CheckImports(const pt2::Archive& archive, const std::string& entry, const std::string& code) {
  constexpr std::string_view kImport = "import";
  for (size_t begin = 0; begin < code.size();) {
    const size_t end = code.find('\n', begin);
    if (end == std::string::npos) archive.Fail(entry, "byte ", begin, ": its last line has no end");
    std::string_view line(code.data() + begin, end - begin);
    line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
    const bool is_name =
        std::ranges::all_of(line.substr(std::min(kImport.size(), line.size())), [](char c) {
          return c == ' ' || c == '.' || c == '_' || std::isalnum(static_cast<unsigned char>(c));
        });
    if (line.starts_with(kImport) && (!is_name || line.size() == kImport.size()))
      archive.Fail(entry, "byte ", begin, ": it imports something that is no plain name");
    begin = end + 1;
  }
}

/// What would make LibTorch do more than parse: code that runs on loading, objects of C++ classes.
void CheckArchive(pt2::Archive& archive) {
  if (!archive.Has("constants.pkl") || !archive.Has("data.pkl"))
    archive.Fail("constants.pkl", "it is missing: this is no TorchScript archive");
  if (archive.Has("byteorder") && archive.Text("byteorder") != "little")
    archive.Fail("byteorder", "only little-endian archives are supported");
  for (const std::string& entry : archive.entries()) {
    const bool code = IsCode(entry);
    const bool pickle =
        entry == "data.pkl" || entry == "constants.pkl" || entry.ends_with(".debug_pkl");
    if (!code && !pickle) continue;
    const std::string text = archive.Text(entry);
    // Its reader of pickles takes their word for lengths, places and sizes of storages.
    if (pickle) archive.CheckPickle(entry, text);
    if (text.find("torch.classes") != std::string::npos ||
        text.find("torch.jit._pickle.restore_custom") != std::string::npos)
      archive.Fail(entry,
                   "it holds objects of C++ classes (quantized weights?), which are not supported");
    if (!code) continue;
    if (text.find("__setstate__") != std::string::npos)
      archive.Fail(entry, "it defines __setstate__, which would run while the file is read");
    CheckNesting(archive, entry, text);
    CheckImports(archive, entry, text);
  }
}

torch::jit::Module Load(const std::filesystem::path& path) {
  try {
    return torch::jit::load(path.string(), at::Device(at::kCPU));
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    Fail("LibTorch cannot read it: ", error.what_without_backtrace());
  } catch (const std::exception& error) {
    Fail("LibTorch cannot read it: ", error.what());
  }
}

using ObjectPtr = c10::intrusive_ptr<c10::ivalue::Object>;

/// All tensors among the attributes, in the order of a state dict.
void AddState(script::Assembler& assembler, const ObjectPtr& object, const std::string& path,
              size_t& names, int depth = 0) {
  if (depth > kMaxModuleDepth) Fail("modules are nested deeper than ", kMaxModuleDepth);
  const auto type = object->type();
  if (!type->is_module()) Fail("'", path, "' is no module");
  const auto prefix = path.empty() ? std::string() : path + ".";
  const auto kind_of = [&](size_t slot) {
    return type->is_parameter(slot) ? StoreKind::kParameter
           : type->is_buffer(slot)  ? StoreKind::kBuffer
                                    : StoreKind::kConstant;
  };
  for (const auto kind : {StoreKind::kParameter, StoreKind::kBuffer, StoreKind::kConstant})
    for (size_t slot = 0; slot < type->numAttributes(); ++slot) {
      const c10::IValue& value = object->getSlot(slot);
      if (!value.isTensor() || !value.toTensor().defined() || kind_of(slot) != kind) continue;
      if (++names > kMaxStored) Fail("it stores more than ", kMaxStored, " tensors");
      assembler.AddStored(prefix + type->getAttributeName(slot), value.toTensor(), kind);
    }
  for (size_t slot = 0; slot < type->numAttributes(); ++slot)
    if (object->getSlot(slot).isModule())
      AddState(assembler, object->getSlot(slot).toObject(), prefix + type->getAttributeName(slot),
               names, depth + 1);
}

/// The samples in the order of forward's arguments: by name when they carry its names.
std::vector<Sample> InOrder(const std::vector<Sample>& samples, const c10::FunctionSchema& schema) {
  std::vector<Sample> ordered;
  std::string names;
  size_t required = 0;
  const auto& arguments = schema.arguments();
  const auto named = [&](const std::string& name) {
    return std::find_if(samples.begin(), samples.end(),
                        [&](const Sample& sample) { return sample.name == name; });
  };
  bool by_name = false;
  for (size_t i = 1; i < arguments.size(); ++i) {
    names += (i > 1 ? ", " : "") + arguments[i].name();
    by_name = by_name || named(arguments[i].name()) != samples.end();
    if (!arguments[i].default_value()) required = i;
  }
  if (samples.size() < required || samples.size() + 1 > arguments.size())
    throw Error(
        ErrorKind::kModel,
        Str("forward takes ", arguments.size() - 1, " inputs (", names, "), ", samples.size(),
            samples.size() == 1 ? " sample is given" : " samples are given"),
        "--input-shape 1x3x224x224,1x16:int64 or --input FILE.safetensors");
  for (size_t i = 1; i <= samples.size(); ++i) {
    if (!by_name) {
      ordered.push_back(samples[i - 1]);
    } else {
      const auto found = named(arguments[i].name());
      if (found == samples.end())
        Fail("no sample is given for the input '", arguments[i].name(), "' of forward(", names,
             ")");
      ordered.push_back(*found);
    }
    ordered.back().name = arguments[i].name();
  }
  return ordered;
}

void AddOutputs(const Item& item, std::vector<ValueId>& outputs) {
  if (const auto* tensor = As<script::TensorItem>(item)) {
    outputs.push_back(tensor->id);
  } else if (const auto* list = As<script::ListItem>(item)) {
    for (const Item& part : *list->items) AddOutputs(part, outputs);
  } else if (const auto* dict = As<script::DictItem>(item)) {
    for (const auto& [key, part] : *dict->items) AddOutputs(part, outputs);
  } else if (!script::IsNone(item)) {
    Fail("forward returns something that is neither a tensor nor a list or dict of tensors");
  }
}

/// Class names of all modules, also of containers no operator is called in.
void AddTypes(const ObjectPtr& object, const std::string& path, nlohmann::json& types) {
  types[path] = script::ClassName(*object->type());
  for (size_t slot = 0; slot < object->type()->numAttributes(); ++slot)
    if (object->getSlot(slot).isModule())
      AddTypes(object->getSlot(slot).toObject(),
               (path.empty() ? "" : path + ".") + object->type()->getAttributeName(slot), types);
}

Network Follow(const torch::jit::Module& module, const std::string& name,
               const std::vector<Sample>& samples, bool dynamic_batch) {
  const at::NoGradGuard no_grad;
  script::Assembler assembler(name, dynamic_batch);
  size_t names = 0;
  AddState(assembler, module._ivalue(), "", names);
  torch::jit::Function* forward = module.type()->findMethod("forward");
  if (!forward) Fail("the module has no method 'forward'");
  std::vector<Item> inputs;
  for (const Sample& sample : InOrder(samples, forward->getSchema()))
    inputs.emplace_back(assembler.AddInput(sample.name, sample.tensor));
  script::Interpreter interpreter(assembler);
  const Item result = interpreter.CallMethod({module._ivalue(), ""}, "forward", std::move(inputs));
  std::vector<ValueId> outputs;
  AddOutputs(result, outputs);
  if (outputs.empty()) Fail("the network has no output");
  Network network = assembler.Finish(outputs);
  nlohmann::json types;
  AddTypes(module._ivalue(), "", types);
  network.extras[pt2::kOrigin] = nlohmann::json{{"module_types", types}}.dump();
  return network;
}

}  // namespace

bool IsNetworkFile(const std::filesystem::path& path) {
  const auto extension = path.extension();
  return extension == ".pt2" || extension == ".pt" || extension == ".pts" || extension == ".ts";
}

bool IsTorchScript(const std::filesystem::path& path) {
  const pt2::Archive archive(path);
  return archive.Has("constants.pkl") &&
         std::any_of(archive.entries().begin(), archive.entries().end(), IsCode);
}

Network ReadNetwork(const std::filesystem::path& path, const std::vector<Sample>& samples) {
  if (IsTorchScript(path)) return ReadTorchScript(path, samples);
  const pt2::Archive archive(path);
  const bool has_program =
      std::any_of(archive.entries().begin(), archive.entries().end(),
                  [](const std::string& entry) { return entry.starts_with("models/"); });
  if (archive.Has("data.pkl") && !has_program)
    throw Error(ErrorKind::kModel,
                Str("'", path.string(), "' is a checkpoint of tensors, it holds no network"),
                "torch.export.save(torch.export.export(model.eval(), (x,)), \"model.pt2\")");
  Network network = ReadPt2(path);
  std::vector<std::pair<std::string, Tensor>> named;
  for (const Sample& sample : samples)
    named.emplace_back(sample.name.empty() ? Str("in", named.size()) : sample.name, sample.tensor);
  try {
    SetSampleInputs(network, named);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel) throw;
    throw Error(ErrorKind::kModel, Str("sample inputs of '", path.string(), "': ", error.message()),
                error.hint());
  }
  return network;
}

Network ReadTorchScript(const std::filesystem::path& path, const std::vector<Sample>& samples) {
  pt2::Archive archive(path);
  CheckArchive(archive);
  const auto with_path = [&](const Error& error) {
    return Error(ErrorKind::kModel, Str("'", path.string(), "': ", error.message()), error.hint());
  };
  const std::string name = path.stem().string();
  try {
    if (samples.empty())
      throw Error(ErrorKind::kModel, "a TorchScript file does not say what its inputs look like",
                  "add --input-shape 1x3x224x224, or --input FILE.safetensors");
    const torch::jit::Module module = Load(path);
    try {
      return Follow(module, name, samples, /*dynamic_batch=*/true);
    } catch (const Error& first) {
      if (first.kind() != ErrorKind::kModel) throw;
      Network network = Follow(module, name, samples, /*dynamic_batch=*/false);
      LogWarning("'", path.string(),
                 "' is bound to the batch size of its sample input: ", first.message());
      return network;
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel) throw;
    throw with_path(error);
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    throw with_path(Error(ErrorKind::kModel, error.what_without_backtrace()));
  }
}

}  // namespace espalier
