#include "env/graph/script_interpreter.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>

#include "env/base/error.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/schema_writes.h"
#include "env/graph/script_operators.h"

namespace espalier::script {
namespace {

namespace jit = torch::jit;
namespace prim = c10::prim;

constexpr int64_t kMaxSteps = 1'000'000;
constexpr int kMaxDepth = 128;

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

/// "model.py:12", of the Python file when the archive says so, else of the archived code.
std::string SourceLine(const jit::Node& node) {
  try {
    auto range = node.sourceRange();
    if (const auto original = range.findSourceRangeThatGenerated()) range = *original;
    if (const auto place = range.file_line_col())
      return Str(std::get<0>(*place), ':', std::get<1>(*place));
  } catch (const std::exception&) {  // damaged debug records: say the rest without them
  }
  return {};
}

/// The last node of the block that reads `value`, also inside of nested blocks; null when none.
const jit::Node* LastReader(const jit::Value* value) {
  const jit::Block* home = value->node()->owningBlock();
  const jit::Node* last = nullptr;
  for (const jit::Use& use : value->uses()) {
    const jit::Node* user = use.user;
    while (user && user->owningBlock() != home) user = user->owningBlock()->owningNode();
    if (user && (!last || user->isAfter(last))) last = user;
  }
  return last;
}

bool TruthOf(const Item& item) {
  const auto* constant = As<c10::IValue>(item);
  if (!constant || !constant->isBool())
    Fail("it depends on data that is only known when the network runs");
  return constant->toBool();
}

int64_t CountOf(const Item& item) {
  const auto* constant = As<c10::IValue>(item);
  if (!constant || !constant->isInt())
    Fail("the number of its rounds depends on the batch or on data");
  return constant->toInt();
}

}  // namespace

std::string ClassName(const c10::ClassType& type) {
  std::string name;
  for (const std::string& part : type.name()->atoms())
    if (part != "__torch__" && !part.starts_with("___torch_mangle_"))
      name += (name.empty() ? "" : ".") + part;
  return name.find('.') == std::string::npos ? "__main__." + name : name;  // as torch drops it
}

void Interpreter::FailAt(const Node& node, const std::string& message,
                         const std::string& hint) const {
  const std::string line = SourceLine(node);
  throw Error(ErrorKind::kModel,
              Str("node ", node.kind().toQualString(), " at '", place_.path, "'",
                  line.empty() ? "" : Str(" (", line, ")"), ": ", message),
              hint);
}

Item Interpreter::CallMethod(const ModuleItem& self, const std::string& name,
                             std::vector<Item> arguments) {
  const auto type = self.object->type();
  jit::Function* method = type->findMethod(name);
  if (!method) Fail("the module '", self.path, "' has no method '", name, "'");
  arguments.insert(arguments.begin(), self);
  const auto& schema = method->getSchema().arguments();
  for (size_t i = arguments.size(); i < schema.size(); ++i) {
    if (!schema[i].default_value()) break;
    arguments.push_back(ItemOf(*schema[i].default_value()));
  }
  return RunFunction(*method, std::move(arguments), {self.path, ClassName(*type)});
}

Item Interpreter::RunFunction(jit::Function& function, std::vector<Item> arguments, Place place) {
  jit::GraphFunction* scripted = jit::tryToGraphFunction(function);
  if (!scripted) Fail("the function '", function.qualname().qualifiedName(), "' has no graph");
  if (++depth_ > kMaxDepth) Fail("calls are nested deeper than ", kMaxDepth);
  std::swap(place_, place);
  scripted->ensure_defined();
  const std::shared_ptr<jit::Graph> graph = scripted->graph();
  std::vector<Item> results = RunGraph(*graph, std::move(arguments));
  std::swap(place_, place);
  --depth_;
  if (results.size() != 1) Fail("a function returns ", results.size(), " values");
  return results.front();
}

std::vector<Item> Interpreter::RunGraph(const jit::Graph& graph, std::vector<Item> inputs) {
  if (graph.inputs().size() != inputs.size())
    Fail("a function takes ", graph.inputs().size(), " arguments, ", inputs.size(), " are given");
  Frame frame;
  for (size_t i = 0; i < inputs.size(); ++i) frame[graph.inputs()[i]] = std::move(inputs[i]);
  inputs.clear();
  RunBlock(*graph.block(), frame);
  std::vector<Item> outputs;
  for (const jit::Value* output : graph.outputs()) outputs.push_back(frame.at(output));
  return outputs;
}

void Interpreter::RunBlock(const jit::Block& block, Frame& frame) {
  for (const Node* node : block.nodes()) {
    if (++steps_ > kMaxSteps) FailAt(*node, Str("more than ", kMaxSteps, " steps"));
    RunNode(*node, frame);
    // Probes are as large as activations: let go of what is not read again.
    for (const jit::Value* input : node->inputs()) {
      const auto held = frame.find(input);
      if (held == frame.end() || !HasTensor(held->second)) continue;
      if (input->node()->owningBlock() == &block && LastReader(input) == node) frame.erase(held);
    }
  }
}

void Interpreter::RunNode(const Node& node, Frame& frame) {
  if (node.kind() == prim::If) return RunIf(node, frame);
  if (node.kind() == prim::Loop) return RunLoop(node, frame);
  if (node.kind() == prim::CallMethod || node.kind() == prim::CallFunction)
    return RunCall(node, frame);
  std::vector<Item> inputs;
  for (const jit::Value* input : node.inputs()) inputs.push_back(frame.at(input));
  std::vector<Item> results;
  try {
    results = RunLeaf(node, inputs);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel) throw;
    FailAt(node, error.message(), error.hint());
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    FailAt(node, error.what_without_backtrace());
  }
  if (results.size() != node.outputs().size())
    FailAt(node, Str("it gives ", results.size(), " values where ", node.outputs().size(),
                     " are expected"));
  for (size_t i = 0; i < results.size(); ++i) frame[node.outputs()[i]] = std::move(results[i]);
}

void Interpreter::RunIf(const Node& node, Frame& frame) {
  bool condition = false;
  try {
    condition = TruthOf(frame.at(node.input(0)));
  } catch (const Error& error) {
    FailAt(node, "the condition cannot be decided: " + error.message(),
           "export the model with torch.export, which says how to rewrite it");
  }
  const jit::Block& taken = *node.blocks()[condition ? 0 : 1];
  RunBlock(taken, frame);
  for (size_t i = 0; i < node.outputs().size(); ++i)
    frame[node.outputs()[i]] = frame.at(taken.outputs()[i]);
}

void Interpreter::RunLoop(const Node& node, Frame& frame) {
  const jit::Block& body = *node.blocks()[0];
  std::vector<Item> carried;
  for (size_t i = 2; i < node.inputs().size(); ++i) carried.push_back(frame.at(node.input(i)));
  try {
    const int64_t rounds = CountOf(frame.at(node.input(0)));
    bool go = TruthOf(frame.at(node.input(1)));
    for (int64_t round = 0; go && round < rounds; ++round) {
      frame[body.inputs()[0]] = c10::IValue(round);
      for (size_t i = 0; i < carried.size(); ++i) frame[body.inputs()[i + 1]] = carried[i];
      RunBlock(body, frame);
      go = TruthOf(frame.at(body.outputs()[0]));
      for (size_t i = 0; i < carried.size(); ++i) carried[i] = frame.at(body.outputs()[i + 1]);
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel || error.message().starts_with("node ")) throw;
    FailAt(node, "the loop cannot be unrolled: " + error.message());
  }
  for (size_t i = 0; i < node.outputs().size(); ++i) frame[node.outputs()[i]] = carried[i];
}

void Interpreter::RunCall(const Node& node, Frame& frame) {
  std::vector<Item> arguments;
  for (const jit::Value* input : node.inputs()) arguments.push_back(frame.at(input));
  try {
    if (node.kind() == prim::CallFunction) {
      const auto type = node.input(0)->type()->expect<c10::FunctionType>();
      arguments.erase(arguments.begin());
      frame[node.output()] = RunFunction(*type->function(), std::move(arguments), place_);
      return;
    }
    const auto* self = As<ModuleItem>(arguments.front());
    if (!self) Fail("a method of something that is no module is called");
    const ModuleItem module = *self;
    arguments.erase(arguments.begin());
    frame[node.output()] = CallMethod(module, node.s(c10::attr::name), std::move(arguments));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel || error.message().starts_with("node ")) throw;
    FailAt(node, error.message(), error.hint());
  }
}

// ---- nodes without blocks ----

Item Interpreter::Constant(const Node& node) {
  if (node.output()->type()->kind() == c10::TypeKind::FunctionType) return c10::IValue();
  const auto value = jit::toIValue(node.output());
  if (!value) Fail("a constant of type ", node.output()->type()->str(), " is not supported");
  if (other_batch_) {
    const auto other = other_batch_->find(&node);
    if (other != other_batch_->end()) {
      // constant + factor * batch, from its two values
      const int64_t first = value->toInt(), second = other->second.toInt();
      const int64_t step = kProbeBatches[1] - kProbeBatches[0];
      if ((second - first) % step != 0)
        Fail("a number is ", first, " and ", second, " at batch ", kProbeBatches[0], " and ",
             kProbeBatches[1], ": no linear function of the batch");
      const int64_t factor = (second - first) / step, base = first - factor * kProbeBatches[0];
      Item size = assembler_.Batch(place_);
      if (factor != 1) size = assembler_.Arithmetic("mul", size, c10::IValue(factor), place_);
      if (base != 0) size = assembler_.Arithmetic("add", size, c10::IValue(base), place_);
      return size;
    }
  }
  return ItemOf(*value);
}

Item Interpreter::Attribute(const ModuleItem& self, const std::string& name) {
  const auto type = self.object->type();
  const auto slot = type->findAttributeSlot(name);
  if (!slot) Fail("the module '", self.path, "' has no attribute '", name, "'");
  const c10::IValue value = self.object->getSlot(*slot);
  const std::string path = self.path.empty() ? name : Str(self.path, '.', name);
  if (value.isModule()) return ModuleItem{value.toObject(), path};
  if (value.isObject()) Fail("the attribute '", path, "' is an object that is no module");
  if (name == "training" && value.isBool()) return c10::IValue(false);
  if (value.isTensor() && value.toTensor().defined()) return assembler_.Stored(path);
  return ItemOf(value);
}

Place Interpreter::PlaceOf(const std::vector<Item>& inputs) const {
  return place_of_ ? place_of_(inputs) : place_;
}

std::vector<Item> Interpreter::RunLeaf(const Node& node, const std::vector<Item>& inputs) {
  const auto kind = node.kind();
  if (kind == prim::Constant) return {Constant(node)};
  if (kind == prim::GetAttr) {
    const auto* self = As<ModuleItem>(inputs.at(0));
    if (!self) Fail("an attribute of something that is no module is read");
    return {Attribute(*self, node.s(c10::attr::name))};
  }
  if (kind == prim::SetAttr)
    Fail("it writes the attribute '", node.s(c10::attr::name), "' of its module");
  if (kind == prim::RaiseException) {
    const auto message = inputs.empty() ? std::nullopt : ValueAt(inputs[0], 0);
    Fail("the model itself refuses this input: ",
         message && message->isString() ? message->toStringRef() : "an exception");
  }
  if (kind == prim::PythonOp) Fail("it calls a Python function, which the file does not hold");
  if (!node.blocks().empty() || kind == prim::fork)
    Fail("sub-graphs of this kind are not supported");
  if (kind == prim::Uninitialized) return {c10::IValue()};
  auto constructed = RunConstruction(node, inputs);
  if (!constructed.empty()) return constructed;
  const std::string name = kind.toQualString();
  if (node.outputs().empty() && (name == "prim::Print" || name == "aten::warn")) return {};
  if (auto result = RunOnList(name, inputs)) {
    if (node.outputs().empty()) return {};
    return {*result};
  }
  return RunOperator(node, inputs);
}

/// Empty when the node builds or takes apart nothing.
std::vector<Item> Interpreter::RunConstruction(const Node& node, const std::vector<Item>& inputs) {
  const auto kind = node.kind();
  if (kind == prim::ListConstruct)
    return {MakeList(inputs, node.output()->type()->expect<c10::ListType>()->getElementType())};
  if (kind == prim::TupleConstruct) return {MakeList(inputs, nullptr)};
  if (kind == prim::DictConstruct) {
    DictItem dict{std::make_shared<std::vector<std::pair<c10::IValue, Item>>>()};
    for (size_t i = 0; i + 1 < inputs.size(); i += 2) {
      const auto* key = As<c10::IValue>(inputs[i]);
      if (!key) Fail("a key of a dict is no constant");
      dict.items->emplace_back(*key, inputs[i + 1]);
    }
    return {dict};
  }
  if (kind == prim::ListUnpack || kind == prim::TupleUnpack) {
    const auto* list = As<ListItem>(inputs.at(0));
    if (!list || list->items->size() != node.outputs().size())
      Fail("it unpacks ", list ? Str(list->items->size(), " values") : "something that is no list",
           " into ", node.outputs().size());
    return *list->items;
  }
  if (kind == prim::TupleSlice) {
    const auto* tuple = As<ListItem>(inputs.at(0));
    const int64_t begin = node.i(c10::attr::beg), end = node.i(c10::attr::end);
    if (!tuple || begin < 0 || end < begin || end > static_cast<int64_t>(tuple->items->size()))
      Fail("it slices no such tuple");
    return {MakeList({tuple->items->begin() + begin, tuple->items->begin() + end}, nullptr)};
  }
  return {};
}

std::vector<Item> Interpreter::RunOperator(const Node& node, const std::vector<Item>& inputs) {
  const jit::Operator* known = node.maybeOperator();
  if (!known)
    throw Error(ErrorKind::kModel, "no such operator is known here",
                "custom operators have to be written with torch operators");
  const c10::FunctionSchema& schema = known->schema();
  bool reads_tensor = false;
  for (const Item& input : inputs) reads_tensor = reads_tensor || HasTensor(input);

  const Place place = PlaceOf(inputs);
  if (const auto* tensor = inputs.empty() ? nullptr : As<TensorItem>(inputs[0]))
    if (auto answer = AskTensor(assembler_, schema.name(), *tensor, inputs, place))
      return {*answer};
  if (!reads_tensor)
    if (auto size = RunOnSizes(schema.name(), inputs)) return {*size};

  bool makes_tensor = false;
  for (const c10::Argument& result : schema.returns())
    makes_tensor = makes_tensor || result.type()->kind() == c10::TypeKind::TensorType ||
                   pt2::TakesTensorList(result);
  const auto handle =
      c10::Dispatcher::singleton().findSchema({schema.name(), schema.overload_name()});
  if (makes_tensor && handle && !FoldsToConstant(inputs, schema))
    return CallNormalised(assembler_, {*handle, inputs}, place);
  if (reads_tensor && !LooksAtShapeOnly(schema.name()))
    Fail(makes_tensor ? "it is no operator of the dispatcher"
                      : "it makes a number out of tensor data");
  if (WritesAny(schema)) Fail("changing this list or tensor is not supported");
  return RunOnNumbers(node, inputs);
}

/// Arithmetic of which a size that follows the batch is part.
std::optional<Item> Interpreter::RunOnSizes(const std::string& name,
                                            const std::vector<Item>& inputs) {
  const SizeItem* size = nullptr;
  bool as_tensor = false;
  for (const Item& input : inputs)
    if (const auto* found = As<SizeItem>(input)) {
      size = found;
      as_tensor = as_tensor || found->as_tensor;
    } else if (const auto* constant = As<c10::IValue>(input)) {
      as_tensor = as_tensor || constant->isTensor();
    }
  if (!size) return std::nullopt;
  if (const auto unwrapped = ConvertSize(name, *size)) return *unwrapped;
  const std::string op = SizeOperator(name, inputs);
  if (op.empty()) return std::nullopt;
  SizeItem result = *size;
  if (op == "neg") {
    result = assembler_.Arithmetic("mul", *size, c10::IValue(-1), place_);
  } else {
    Item other = inputs.at(1);
    if (inputs.size() > 2 && (op == "add" || op == "sub") && !IsOne(inputs[2]))
      Fail("a factor of the second number is not supported");
    const bool reversed = name == "aten::rsub";
    result = reversed ? assembler_.Arithmetic("sub", other, inputs[0], place_)
                      : assembler_.Arithmetic(op, inputs[0], other, place_);
  }
  result.as_tensor = as_tensor;
  return result;
}

}  // namespace espalier::script
