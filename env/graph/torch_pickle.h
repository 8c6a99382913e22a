#pragma once

#include <string>
#include <vector>

#include "env/base/tensor.h"
#include "env/graph/zip_file.h"

namespace espalier {

/// What a file of torch.save holds, as far as it is plain data.
struct PickleValue {
  enum class Kind { kNone, kBool, kInt, kFloat, kText, kTensor, kTuple, kList, kDict, kOpaque };
  Kind kind = Kind::kNone;
  int64_t number = 0;  ///< also of a bool
  double real = 0;
  std::string text{};  ///< also the name of an opaque object's class
  Tensor tensor{};
  std::vector<PickleValue> items{};  ///< of a dict: key, value, key, value, ...
  int depth = 1;                     ///< levels of nesting

  /// All tensors inside, depth first, in order: torch's flattening of nested arguments.
  void CollectTensors(std::vector<Tensor>& tensors) const;
};

/// Reads the zip archive that torch.save writes. No code is run: of Python's objects only tensors,
/// parameters, sizes, devices and ordered dicts are made, all others become kOpaque. Treats the
/// bytes as hostile: opcodes, sizes, offsets and nesting are checked before use.
/// Errors   kModel saying what is wrong; the caller adds the place.
PickleValue ReadTorchSave(const Tensor& bytes);
/// The same walk over one `program` of an archive, for a reader that trusts it: storages are the
/// records `folder`/KEY, whose sizes have to be right; none is read.
void CheckTorchPickle(ZipFile& archive, std::string program, const std::string& folder);

}  // namespace espalier
