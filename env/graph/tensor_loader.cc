#include "env/graph/tensor_loader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/generator_scope.h"

namespace espalier {

TensorLoader LoaderOf(const ParameterStore& store) {
  return [&store](const std::string& name) { return store.Get(name); };
}

TensorLoader Remembering(TensorLoader load, const ParameterStore& store, int64_t most_bytes) {
  int64_t bytes = 0;
  for (const std::string& name : store.CanonicalNames())
    bytes += store.Get(name).numel() * static_cast<int64_t>(sizeof(double));
  if (bytes > most_bytes) return load;
  auto known = std::make_shared<std::unordered_map<std::string, Tensor>>();
  return [load = std::move(load), known](const std::string& name) {
    Tensor& tensor = (*known)[name];
    if (!tensor.defined()) tensor = load(name);
    return tensor;
  };
}

std::string WeightsHash(const ParameterStore& store, const TensorLoader& load) {
  std::vector<std::string> names = store.names();
  std::sort(names.begin(), names.end());
  std::string text;
  for (const std::string& name : names) {
    const Tensor tensor = load(store.Canonical(name)).detach().cpu().contiguous();
    text +=
        Str(name, ' ', c10::toString(tensor.scalar_type()), ' ', tensor.sizes(), ' ',
            Sha256Hex({static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()}), '\n');
  }
  return Sha256Hex(text);
}

ParameterStore ZerosForShapes(const ParameterStore& store) {
  ParameterStore filled = store;
  for (const std::string& name : store.CanonicalNames()) {
    const Tensor& shape = store.Get(name);
    if (!shape.is_meta()) continue;
    // Untouched pages of calloc are all the same page of zeros.
    void* zeros = std::calloc(std::max<size_t>(shape.nbytes(), 1), 1);
    if (zeros == nullptr) throw Error(ErrorKind::kResource, "out of memory");
    filled.Set(name, at::from_blob(zeros, shape.sizes(), std::free,
                                   at::TensorOptions(shape.scalar_type())));
  }
  return filled;
}

std::vector<std::vector<Tensor>> RunStreamed(const Graph& graph, const ParameterStore& store,
                                             const TensorLoader& load,
                                             const std::vector<std::vector<Tensor>>& inputs) {
  const at::NoGradGuard no_grad;
  const GeneratorScope same_draws(graph);
  const Executor executor(graph);
  const Binding binding = executor.Bind(store);
  std::vector<Executor::Progress> runs;
  for (const auto& input : inputs) runs.push_back(executor.Start(binding, input));
  const auto put = [&](ValueId id) {
    const std::string& target = graph.values[static_cast<size_t>(id)].target;
    const Tensor tensor = load(store.Canonical(target));
    for (Executor::Progress& run : runs) run.slots[static_cast<size_t>(id)] = tensor;
  };
  const auto is_stored = [&](ValueId id) {
    return !graph.values[static_cast<size_t>(id)].target.empty();
  };
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    std::vector<ValueId> stored;
    for (const Use& use : UsesOf(graph.ops[i]))
      if (is_stored(use.value)) stored.push_back(use.value);
    std::sort(stored.begin(), stored.end());
    stored.erase(std::unique(stored.begin(), stored.end()), stored.end());
    for (const ValueId id : stored) put(id);
    for (Executor::Progress& run : runs) {
      executor.Advance(binding, run, static_cast<int32_t>(i) + 1);
      for (const ValueId id : stored) run.slots[static_cast<size_t>(id)] = c10::IValue();
    }
  }
  for (const ValueId output : graph.outputs)
    if (is_stored(output)) put(output);
  std::vector<std::vector<Tensor>> outputs;
  for (const Executor::Progress& run : runs) outputs.push_back(executor.Outputs(run));
  return outputs;
}

}  // namespace espalier
