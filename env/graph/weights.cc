#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/graph/io.h"

namespace espalier {
namespace {

constexpr size_t kListed = 8;  // names of one kind shown in a message

std::string Describe(const Tensor& tensor) {
  return Str(c10::toString(tensor.scalar_type()), " ", tensor.sizes());
}

/// "3 missing: a, b, c" with at most kListed names.
void AppendList(std::string& text, const char* what, const std::vector<std::string>& items) {
  if (items.empty()) return;
  text += Str(text.empty() ? "" : "; ", items.size(), " ", what, ": ");
  for (size_t i = 0; i < std::min(items.size(), kListed); ++i)
    text += Str(i == 0 ? "" : ", ", items[i]);
  if (items.size() > kListed) text += ", ...";
}

/// Counters and lifted constants: files of other origin leave them out.
bool MayBeAbsent(const ParameterStore& store, const std::string& name) {
  constexpr std::string_view kCounter = "num_batches_tracked";
  return name.ends_with(kCounter) || store.Kind(name) == StoreKind::kConstant;
}

}  // namespace

void SaveWeights(const std::filesystem::path& path, const ParameterStore& store,
                 std::map<std::string, std::string> metadata, const TensorLoader& load) {
  TensorFile file;
  for (const std::string& name : store.CanonicalNames())
    file.tensors.emplace_back(name, store.Get(name));
  file.metadata = std::move(metadata);
  WriteSafetensors(path, file, load);
}

void LoadWeights(const std::filesystem::path& path, ParameterStore& store) {
  const TensorFile file = ReadSafetensors(path);
  std::map<std::string, Tensor> found;  // by canonical name
  std::vector<std::string> missing, unexpected, misshapen;
  for (const auto& [name, tensor] : file.tensors) {
    if (!store.Has(name)) {
      const std::string near = NearestName(name, store.names());
      unexpected.push_back(near.empty() ? name : Str(name, " (near ", near, ")"));
      continue;
    }
    const Tensor& known = store.Get(name);
    if (known.sizes() != tensor.sizes() || known.scalar_type() != tensor.scalar_type()) {
      misshapen.push_back(Str(name, " is ", Describe(tensor), ", expected ", Describe(known)));
      continue;
    }
    const auto [slot, fresh] = found.emplace(store.Canonical(name), tensor);
    if (!fresh && !at::equal(slot->second, tensor))
      misshapen.push_back(
          Str(name, " differs from ", store.Canonical(name), ", to which it is tied"));
  }
  for (const std::string& name : store.CanonicalNames()) {
    const bool listed =
        std::any_of(file.tensors.begin(), file.tensors.end(), [&](const auto& item) {
          return store.Has(item.first) && store.Canonical(item.first) == name;
        });
    if (!listed && !MayBeAbsent(store, name)) missing.push_back(name);
  }
  std::string problems;
  AppendList(problems, "missing", missing);
  AppendList(problems, "unexpected", unexpected);
  AppendList(problems, "misshapen", misshapen);
  if (!problems.empty())
    throw Error(ErrorKind::kModel,
                Str("the weights in '", path.string(), "' do not fit: ", problems),
                "weights of another network?");
  for (auto& [name, tensor] : found) {
    const bool grad = store.Get(name).requires_grad();
    const auto device = store.Get(name).device();
    store.Set(name, tensor.to(device).set_requires_grad(grad));
  }
}

}  // namespace espalier
