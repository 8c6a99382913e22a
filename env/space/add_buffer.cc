#include "env/space/add_buffer.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/base/error.h"

namespace espalier {

ValueId AddBuffer(Network& network, const std::string& name, const Tensor& tensor) {
  std::string stored = name;
  for (int copy = 2; network.store.Has(stored); ++copy) stored = Str(name, "_", copy);
  network.store.Add(stored, tensor, StoreKind::kBuffer);
  std::string value_name = "b_" + stored;
  std::replace(value_name.begin(), value_name.end(), '.', '_');
  network.graph.values.push_back({value_name, ValueKind::kBuffer, stored, -1});
  return static_cast<ValueId>(network.graph.values.size() - 1);
}

}  // namespace espalier
