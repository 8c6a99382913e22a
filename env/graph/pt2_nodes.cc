#include "env/graph/pt2_nodes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/pt2_schema.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// One entry of an argument that is made of values and whole numbers: a name, or a number.
using Item = std::variant<std::string, int64_t>;

void AppendItems(const json& item, std::vector<Item>& items) {
  const std::string& kind = KeyOf(item);
  const json& value = item.at(kind);
  if (kind == "as_tensor") {
    items.emplace_back(value.at("name").get<std::string>());
  } else if (kind == "as_name") {
    items.emplace_back(value.get<std::string>());
  } else if (kind == "as_int") {
    items.emplace_back(value.get<int64_t>());
  } else if (kind == "as_none") {
    items.emplace_back(std::string());
  } else if (value.is_array()) {
    for (const json& element : value) {
      if (element.is_object() && element.contains("name"))
        items.emplace_back(element["name"].get<std::string>());
      else if (element.is_number_integer())
        items.emplace_back(element.get<int64_t>());
      else
        AppendItems(element, items);
    }
  } else {
    AppendItems(value, items);
  }
}

bool Equal(const c10::IValue& a, const c10::IValue& b) {
  if (a.isTensor() != b.isTensor()) return false;
  if (a.isTensor())
    return a.toTensor().scalar_type() == b.toTensor().scalar_type() &&
           at::equal(a.toTensor(), b.toTensor());
  if (a.isDouble() && b.isDouble() && std::isnan(a.toDouble())) return std::isnan(b.toDouble());
  return a == b;
}

}  // namespace

ordered_json TensorArgument(const std::string& name) { return {{"as_tensor", {{"name", name}}}}; }

bool IsDefault(const c10::Argument& argument, const Arg& arg) {
  const auto* constant = std::get_if<c10::IValue>(&arg);
  return constant && argument.default_value() && *constant == *argument.default_value();
}

std::string NodeName(const json& node, size_t index) {
  std::string name = node.value("name", "");
  if (!name.empty()) return name;
  for (const json& output : node.at("outputs")) {
    std::vector<Item> items;
    AppendItems(output, items);
    if (!items.empty() && std::holds_alternative<std::string>(items.front()))
      return std::get<std::string>(items.front());
  }
  return Str("node_", index);
}

bool IsAssertion(const json& node) {
  static const std::set<std::string> kTargets = {
      "torch.ops.aten._assert_tensor_metadata.default",
      "torch.ops.aten._assert_scalar.default",
      "torch.ops.aten._assert_async.default",
      "torch.ops.aten._assert_async.msg",
      "torch.ops.aten.sym_constrain_range.default",
      "torch.ops.aten.sym_constrain_range_for_size.default",
      "torch.ops.aten._functional_assert_async.msg",
      "_operator.eq",
      "_operator.ne",
      "_operator.le",
      "_operator.ge",
      "_operator.lt",
      "_operator.gt",
      "_operator.and_",
      "_operator.or_",
      "torch.sym_not"};
  return kTargets.contains(node.at("target").get<std::string>());
}

NodeWriter::NodeWriter(const Graph& graph, std::vector<std::string> names)
    : names_(std::move(names)), is_int_(graph.values.size(), false) {
  for (const Op& op : graph.ops)
    if (ReturnsInt(op)) is_int_[static_cast<size_t>(op.outputs.front())] = true;
}

ordered_json NodeWriter::ValueJson(ValueId id) const {
  if (IsInt(id)) return {{"as_sym_int", {{"as_name", Name(id)}}}};
  return TensorArgument(Name(id));
}

ordered_json NodeWriter::ArgJson(const c10::Argument& argument, const Arg& arg) const {
  if (const auto* constant = std::get_if<c10::IValue>(&arg))
    return ConstantJson(argument, *constant);
  if (const auto* id = std::get_if<ValueId>(&arg))
    return *id == kNoValue ? ordered_json{{"as_none", true}} : ValueJson(*id);
  ordered_json items = ordered_json::array();
  if (const auto* scalars = std::get_if<ScalarList>(&arg)) {
    for (const auto& item : scalars->items) {
      if (const auto* id = std::get_if<ValueId>(&item))
        items.push_back({{"as_name", Name(*id)}});
      else
        items.push_back({{"as_int", std::get<int64_t>(item)}});
    }
    return {{"as_sym_ints", std::move(items)}};
  }
  const auto& ids = std::get<ValueList>(arg).ids;
  const bool gaps = std::find(ids.begin(), ids.end(), kNoValue) != ids.end();
  for (const ValueId id : ids) {
    if (!gaps)
      items.push_back({{"name", Name(id)}});
    else
      items.push_back(id == kNoValue ? ordered_json{{"as_none", true}} : ValueJson(id));
  }
  return {{gaps ? "as_optional_tensors" : "as_tensors", std::move(items)}};
}

ordered_json NodeWriter::Inputs(const Op& op) const {
  const auto& schema = op.handle.schema();
  ordered_json inputs = ordered_json::array();
  // Positional arguments without gaps up to the last one that is no default; keywords as needed.
  size_t positional = 0;
  for (size_t i = 0; i < op.args.size(); ++i)
    if (!schema.arguments()[i].kwarg_only() && !IsDefault(schema.arguments()[i], op.args[i]))
      positional = i + 1;
  for (size_t i = 0; i < op.args.size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    if (argument.kwarg_only() ? IsDefault(argument, op.args[i]) : i >= positional) continue;
    try {
      inputs.push_back({{"name", argument.name()},
                        {"arg", ArgJson(argument, op.args[i])},
                        {"kind", argument.kwarg_only() ? 2 : 1}});
    } catch (const Error& error) {
      throw Error(ErrorKind::kModel,
                  Str("cannot write argument '", argument.name(), "' of op '", op.name, "' (",
                      op.target(), " at '", op.module_path, "'): ", error.message()));
    }
  }
  return inputs;
}

ordered_json NodeWriter::Outputs(const Op& op) const {
  ordered_json outputs = ordered_json::array();
  if (op.returns_list) {
    ordered_json names = ordered_json::array();
    for (const ValueId output : op.outputs) names.push_back({{"name", Name(output)}});
    outputs.push_back({{"as_tensors", std::move(names)}});
  } else {
    for (const ValueId output : op.outputs) outputs.push_back(ValueJson(output));
  }
  return outputs;
}

bool NodeWriter::Says(const json& item, const c10::Argument& argument, const Arg& arg) const {
  if (const auto* constant = std::get_if<c10::IValue>(&arg)) {
    if (const auto said = ConstantOf(argument, item)) return Equal(*said, *constant);
    if (!constant->isInt() && !constant->isIntList()) return false;
  }
  std::vector<Item> said, meant;
  AppendItems(item, said);
  AppendItems(json(ArgJson(argument, arg)), meant);
  return said == meant;
}

}  // namespace espalier::pt2
