#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "env/graph/network.h"
#include "env/graph/script_item.h"

namespace espalier::script {

/// The module an operator is called in.
struct Place {
  std::string path, type;  ///< "layer1.0.conv1", "torch.nn.modules.conv.Conv2d"
};

/// A whole number, whether it follows the batch or not. Numbers in 0-d tensors count, as traced
/// sizes do. Errors: kModel for anything else.
std::variant<int64_t, SizeItem> IntOf(const Item& item);

/// Collects operator calls into a Network. Every call is run at both probe batches at once, so
/// sizes, ranks and dtypes are known where the script asks for them.
///
/// Errors   kModel for arguments an operator does not take, for operators that fail and for writes
///          to inputs and stored tensors; the caller adds the place.
/// Cost     one forward at each probe batch; a fixed batch costs one.
class Assembler {
 public:
  /// Dynamic: axis 0 of every sample that is as long as the first one's is the batch.
  Assembler(std::string name, bool dynamic_batch);

  /// Tensors that share their memory and shape are tied to the first name.
  void AddStored(const std::string& name, const Tensor& tensor, StoreKind kind);
  TensorItem AddInput(const std::string& name, const Tensor& sample);
  TensorItem Stored(const std::string& name);

  /// One operator call with its arguments in schema order; one item per returned value.
  std::vector<Item> Call(const c10::OperatorHandle& handle, const std::vector<Item>& arguments,
                         const Place& place);

  Item SizeOf(const TensorItem& tensor, int64_t dim, const Place& place);
  SizeItem Batch(const Place& place);
  /// add, sub, mul, floordiv, mod on ints of which at least one follows the batch; div when it is
  /// exact at both probes.
  SizeItem Arithmetic(const std::string& op, const Item& a, const Item& b, const Place& place);

  /// The item an aten::t call read, when `tensor` is its result; else null.
  const TensorItem* TransposeOf(const TensorItem& tensor) const;

  /// Drops calls nobody reads and names the rest as torch.export does.
  Network Finish(const std::vector<ValueId>& outputs);

 private:
  struct Resolved {
    Arg arg;
    std::array<c10::IValue, 2> at;
  };
  Resolved Resolve(const c10::OperatorHandle& handle, size_t index, const Item& item,
                   at::ScalarType dtype, const Place& place);
  Resolved ResolveTensor(const Item& item, const Place& place);
  Resolved ResolveTensors(const ListItem& list, const c10::Argument& argument, const Place& place);
  Resolved ResolveSizes(const ListItem& list, const Place& place);
  TensorItem Constant(const Tensor& tensor);
  ValueId AddValue(Value value);
  void CheckWrites(const c10::OperatorHandle& handle, const std::vector<Item>& arguments) const;
  std::vector<Item> ItemsOf(Op& op, const std::vector<std::vector<c10::IValue>>& results);
  void Guard(const std::string& what, const Tensor& tensor);

  Network network_;
  bool dynamic_batch_;
  int64_t batch_ = -1;                            // of the first sample
  std::map<std::string, std::string> by_memory_;  // where and how a tensor lies -> first name
  std::map<std::string, TensorItem> stored_;      // those that are read, by name
  struct Guarded {
    std::string what;
    c10::Storage storage;  // held, so that its address is not used again
  };
  std::map<const void*, Guarded> guarded_;  // memory nobody may write to
  std::map<ValueId, TensorItem> transposes_;
  std::map<std::string, SizeItem> sizes_;  // by how they are computed
  int64_t constants_ = 0;
};

}  // namespace espalier::script
