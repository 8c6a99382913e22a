#include "env/graph/trace.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/nn/module.h>

#include "env/base/error.h"
#include "env/graph/script_interpreter.h"

namespace espalier {
namespace {

namespace jit = torch::jit;
using script::As;
using script::Item;

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

std::shared_ptr<jit::Graph> Record(const TensorFunction& function, std::vector<Tensor> inputs,
                                   const std::vector<NamedTensor>& stored) {
  // Stored tensors are inputs of the traced graph: the tracer knows a tensor by its identity.
  const size_t count = inputs.size();
  jit::Stack stack(inputs.begin(), inputs.end());
  for (const NamedTensor& item : stored) stack.emplace_back(item.tensor);
  const auto call = [&](jit::Stack values) -> jit::Stack {
    std::vector<Tensor> given;
    for (size_t i = 0; i < count; ++i) given.push_back(values[i].toTensor());
    const std::vector<Tensor> results = function(given);
    return {results.begin(), results.end()};
  };
  const auto no_names = [](const torch::autograd::Variable&) { return std::string(); };
  try {
    return jit::tracer::trace(std::move(stack), call, no_names).first->graph;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    Fail("it cannot be traced: ", error.what_without_backtrace());
  }
}

/// Constants of `graph` that `other`, the same function at the other batch, has differently.
script::Interpreter::Constants Differing(const jit::Graph& graph, const jit::Graph& other) {
  script::Interpreter::Constants constants;
  auto twin = other.nodes().begin();
  for (const jit::Node* node : graph.nodes()) {
    if (twin == other.nodes().end() || node->kind() != (*twin)->kind())
      Fail("what it calls depends on the batch: ", node->kind().toQualString(), " at batch ",
           script::kProbeBatches[0], " is something else at batch ", script::kProbeBatches[1]);
    const jit::Node* same = *twin;
    ++twin;
    if (node->kind() != c10::prim::Constant) continue;
    const auto a = jit::toIValue(node->output()), b = jit::toIValue(same->output());
    if (!a || !b || a->isTensor() || b->isTensor()) continue;
    if (a->isInt() && b->isInt() && a->toInt() != b->toInt())
      constants.emplace(node, *b);
    else if (*a != *b)
      Fail("a constant depends on the batch and is no whole number");
  }
  return constants;
}

std::string OwnerOf(const std::string& name) {
  const size_t dot = name.rfind('.');
  return dot == std::string::npos ? "" : name.substr(0, dot);
}

}  // namespace

Network TraceFunction(const std::string& name, const TensorFunction& function,
                      const std::vector<NamedTensor>& stored, const std::vector<Sample>& samples) {
  const at::NoGradGuard no_grad;
  script::Assembler assembler(name, /*dynamic_batch=*/true);
  std::map<ValueId, script::Place> owners;
  std::vector<Item> inputs;
  for (const NamedTensor& item : stored) assembler.AddStored(item.name, item.tensor, item.kind);
  for (const Sample& sample : samples) {
    const std::string fallback = samples.size() == 1 ? "x" : Str("x", inputs.size());
    inputs.emplace_back(
        assembler.AddInput(sample.name.empty() ? fallback : sample.name, sample.tensor));
  }
  std::array<std::vector<Tensor>, 2> probes;
  for (const Item& input : inputs)
    for (size_t probe = 0; probe < 2; ++probe)
      probes[probe].push_back(As<script::TensorItem>(input)->probe[probe].clone());
  for (const NamedTensor& item : stored) {
    const script::TensorItem tensor = assembler.Stored(item.name);
    owners.emplace(tensor.id, script::Place{OwnerOf(item.name), item.module_type});
    inputs.emplace_back(tensor);
  }
  const auto graph = Record(function, probes[0], stored);
  const auto other = Record(function, probes[1], stored);
  const auto constants = Differing(*graph, *other);
  script::Interpreter interpreter(assembler, &constants);
  interpreter.set_place_of([&](const std::vector<Item>& arguments) -> script::Place {
    for (const Item& argument : arguments)
      if (const auto* tensor = As<script::TensorItem>(argument))
        if (const auto owner = owners.find(tensor->id); owner != owners.end()) return owner->second;
    return {};
  });
  std::vector<ValueId> outputs;
  for (const Item& result : interpreter.RunGraph(*graph, std::move(inputs))) {
    const auto* tensor = As<script::TensorItem>(result);
    if (!tensor) Fail("a result is no tensor the function computes");
    outputs.push_back(tensor->id);
  }
  return assembler.Finish(outputs);
}

Network TraceModule(const std::string& name, torch::nn::Module& module,
                    const TensorFunction& forward, const std::vector<Sample>& samples) {
  module.eval();
  std::map<std::string, std::string> types = {{"", module.name()}};
  for (const auto& part : module.named_modules("", /*include_self=*/false))
    types[part.key()] = part.value()->name();
  std::vector<NamedTensor> stored;
  const auto add = [&](const std::string& tensor_name, const Tensor& tensor, StoreKind kind) {
    if (tensor.defined())
      stored.push_back({tensor_name, tensor, kind, types[OwnerOf(tensor_name)]});
  };
  for (const auto& item : module.named_parameters())
    add(item.key(), item.value(), StoreKind::kParameter);
  for (const auto& item : module.named_buffers()) add(item.key(), item.value(), StoreKind::kBuffer);
  return TraceFunction(name, forward, stored, samples);
}

}  // namespace espalier
