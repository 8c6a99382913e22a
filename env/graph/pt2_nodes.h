#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "env/graph/network.h"

namespace espalier::pt2 {

/// Writes ops as the nodes of an archive, under the given names of values (by id).
class NodeWriter {
 public:
  NodeWriter(const Graph& graph, std::vector<std::string> names);

  const std::string& Name(ValueId id) const { return names_.at(static_cast<size_t>(id)); }
  bool IsInt(ValueId id) const { return is_int_.at(static_cast<size_t>(id)); }
  nlohmann::ordered_json ValueJson(ValueId id) const;  ///< as_tensor or as_sym_int
  nlohmann::ordered_json ArgJson(const c10::Argument& argument, const Arg& arg) const;
  /// The list of named arguments; those that have their default are left out where that is legal.
  /// Errors   kModel naming op and argument for constants the format has no form for.
  nlohmann::ordered_json Inputs(const Op& op) const;
  nlohmann::ordered_json Outputs(const Op& op) const;
  /// True when the archive's JSON says the same as the argument.
  bool Says(const nlohmann::json& item, const c10::Argument& argument, const Arg& arg) const;

 private:
  std::vector<std::string> names_;
  std::vector<bool> is_int_;
};

bool IsDefault(const c10::Argument& argument, const Arg& arg);
/// {"as_tensor": {"name": name}}
nlohmann::ordered_json TensorArgument(const std::string& name);

/// Name of a node; older archives do not give one, then it is that of the first result.
std::string NodeName(const nlohmann::json& node, size_t index);
/// Nodes that only check sizes and dtypes, and the comparisons they check. The reader leaves them
/// out, for they hold no data; the writer puts them back.
bool IsAssertion(const nlohmann::json& node);

}  // namespace espalier::pt2
