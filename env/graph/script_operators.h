#pragma once

#include <optional>
#include <string>
#include <vector>

#include "env/graph/script_assembler.h"

namespace torch::jit {
struct Node;
}  // namespace torch::jit

/// What single operators mean while a TorchScript graph is followed.
namespace espalier::script {

struct OperatorCall {
  c10::OperatorHandle handle;
  std::vector<Item> arguments;  ///< in schema order
};

/// Calls the operator that torch.export writes for the same thing: _convolution becomes conv2d and
/// its kin, add.Scalar becomes add.Tensor with a number, a Linear's addmm becomes linear.
/// Errors   kModel for batch norm or dropout in training mode, and as Assembler::Call.
std::vector<Item> CallNormalised(Assembler& assembler, const OperatorCall& call,
                                 const Place& place);

/// Python's list, tuple and dict methods. Nothing when `name` is none of them.
std::optional<Item> RunOnList(const std::string& name, const std::vector<Item>& inputs);

/// size, dim, numel, len of a tensor. Nothing when `name` asks something else.
std::optional<Item> AskTensor(Assembler& assembler, const std::string& name,
                              const TensorItem& tensor, const std::vector<Item>& inputs,
                              const Place& place);
bool LooksAtShapeOnly(const std::string& name);  ///< dtype, is_contiguous, ... but no elements

/// The operator of Assembler::Arithmetic for "aten::floor_divide" and the like; "" for others.
std::string SizeOperator(const std::string& name, const std::vector<Item>& inputs);
/// int(size), NumToTensor(size) and other changes of form. Nothing for other operators.
std::optional<Item> ConvertSize(const std::string& name, const SizeItem& size);

/// What is a constant again: arithmetic on 0-d constants alone, as traced Python numbers leave
/// behind, and copies of constants.
bool FoldsToConstant(const std::vector<Item>& inputs, const c10::FunctionSchema& schema);
/// Operators on numbers and text alone, and questions about tensors that do not look at data: run
/// as they are. Errors: kModel when the answer depends on the batch.
std::vector<Item> RunOnNumbers(const torch::jit::Node& node, const std::vector<Item>& inputs);

bool IsOne(const Item& item);
int64_t ConstantInt(const Item& item);  ///< errors: kModel when it is no constant int or bool

}  // namespace espalier::script
