#pragma once

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "env/graph/script_assembler.h"

namespace espalier::script {

/// "__torch__.torch.nn.modules.conv.___torch_mangle_4.Conv2d" -> "torch.nn.modules.conv.Conv2d".
std::string ClassName(const c10::ClassType& type);

/// Follows a TorchScript graph with sizes, numbers, lists and module attributes known, so that
/// calls are inlined, loops unrolled and conditions decided, and hands every tensor operator to the
/// assembler. Plain Python arithmetic runs through TorchScript's own operators; no TorchScript
/// function is ever executed as such.
///
/// Errors   kModel naming node, module path and source line: control flow or numbers that depend on
///          data, calls into Python, writes to attributes, operators we cannot represent.
/// Cost     at most kMaxSteps nodes are followed.
class Interpreter {
 public:
  /// `other_batch`: constants of the graph as they are at the second probe batch, where they
  /// differ (functions of C++ have their sizes written out).
  using Constants = std::unordered_map<const torch::jit::Node*, c10::IValue>;
  explicit Interpreter(Assembler& assembler, const Constants* other_batch = nullptr)
      : assembler_(assembler), other_batch_(other_batch) {}

  /// Arguments left out at the end take their defaults.
  Item CallMethod(const ModuleItem& self, const std::string& name, std::vector<Item> arguments);
  std::vector<Item> RunGraph(const torch::jit::Graph& graph, std::vector<Item> inputs);

  /// Where an operator of a graph without modules belongs, from the stored tensors it reads.
  void set_place_of(std::function<Place(const std::vector<Item>&)> place_of) {
    place_of_ = std::move(place_of);
  }

 private:
  using Node = torch::jit::Node;
  using Frame = std::unordered_map<const torch::jit::Value*, Item>;

  Item RunFunction(torch::jit::Function& function, std::vector<Item> arguments, Place place);
  void RunBlock(const torch::jit::Block& block, Frame& frame);
  void RunNode(const Node& node, Frame& frame);
  void RunIf(const Node& node, Frame& frame);
  void RunLoop(const Node& node, Frame& frame);
  void RunCall(const Node& node, Frame& frame);
  std::vector<Item> RunLeaf(const Node& node, const std::vector<Item>& inputs);
  std::vector<Item> RunConstruction(const Node& node, const std::vector<Item>& inputs);
  std::vector<Item> RunOperator(const Node& node, const std::vector<Item>& inputs);
  std::optional<Item> RunOnSizes(const std::string& name, const std::vector<Item>& inputs);
  Item Constant(const Node& node);
  Item Attribute(const ModuleItem& self, const std::string& name);
  Place PlaceOf(const std::vector<Item>& inputs) const;
  [[noreturn]] void FailAt(const Node& node, const std::string& message,
                           const std::string& hint = {}) const;

  Assembler& assembler_;
  const Constants* other_batch_;
  std::function<Place(const std::vector<Item>&)> place_of_;
  Place place_;  ///< of the method that runs
  int64_t steps_ = 0;
  int depth_ = 0;
};

}  // namespace espalier::script
