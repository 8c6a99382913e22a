#include "env/graph/pt2_inline.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "env/base/error.h"
#include "env/graph/pt2_arguments.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;

constexpr const char* kMetaTables[] = {"tensor_values", "sym_int_values", "sym_bool_values",
                                       "sym_float_values"};

bool IsPlainWrapper(const json& node) {
  const auto target = node.at("target").get<std::string>();
  if (target == "torch.ops.higher_order.wrap_with_set_grad_enabled") return true;
  if (target != "torch.ops.higher_order.wrap_with_autocast") return false;
  // (device, dtype, enabled, cache, body, ...): with autocasting on, operators change their dtype.
  const json& inputs = node.at("inputs");
  return inputs.size() > 3 && inputs[2].at("arg").value("as_bool", true) == false;
}

/// The value an argument names: as_tensor, as_sym_int and the like; "" for constants.
std::string NameIn(const json& argument) {
  const std::string& kind = KeyOf(argument);
  const json& value = argument.at(kind);
  if (!value.is_object()) return "";
  if (kind == "as_tensor") return value.at("name").get<std::string>();
  if (kind.starts_with("as_sym_")) return value.value("as_name", "");
  return "";
}

using Names = std::map<std::string, std::string>;

/// Inside one argument (or list of arguments) the names of values stand under these keys.
void Rename(json& item, const Names& names) {
  if (item.is_array()) {
    for (json& element : item) Rename(element, names);
    return;
  }
  if (!item.is_object()) return;
  for (auto& [key, value] : item.items()) {
    if (value.is_string() && (key == "name" || key == "as_name")) {
      const auto found = names.find(value.get<std::string>());
      if (found != names.end()) value = found->second;
    } else {
      Rename(value, names);
    }
  }
}

Names InlineInGraph(json& graph);

class Inliner {
 public:
  explicit Inliner(json& graph) : graph_(graph) {
    for (const char* table : kMetaTables)
      if (graph.contains(table))
        for (const auto& [name, meta] : graph[table].items()) taken_.insert(name);
  }

  void Run() {
    json nodes = json::array();
    for (json& node : graph_.at("nodes")) {
      if (IsPlainWrapper(node))
        Inline(node, nodes);
      else
        nodes.push_back(std::move(node));
      if (nodes.size() > kMostNodes) throw Error(ErrorKind::kModel, "it has too many nodes");
    }
    graph_["nodes"] = std::move(nodes);
    for (json& node : graph_["nodes"]) {
      for (json& input : node.at("inputs")) Rename(input.at("arg"), aliases_);
    }
    for (json& output : graph_.at("outputs")) Rename(output, aliases_);
    for (const char* table : kMetaTables)
      for (const auto& [result, value] : aliases_)
        if (graph_.contains(table)) graph_[table].erase(result);
  }
  const Names& aliases() const { return aliases_; }

 private:
  static constexpr size_t kMostNodes = 1 << 20;

  std::string Fresh(const std::string& wanted) {
    std::string name = wanted;
    for (int i = 1; !taken_.insert(name).second; ++i) name = Str(wanted, "_", i);
    return name;
  }

  void Inline(json& call, json& nodes) {
    const auto where = [&] {
      return Str("node '", call.value("name", ""), "' (", call.at("target").get<std::string>(),
                 "): ");
    };
    json& inputs = call.at("inputs");
    size_t body_at = 0;
    while (body_at < inputs.size() && !inputs[body_at].at("arg").contains("as_graph")) ++body_at;
    if (body_at == inputs.size()) throw Error(ErrorKind::kModel, where() + "it has no body");
    json body = std::move(inputs[body_at]["arg"]["as_graph"]["graph"]);
    InlineInGraph(body);
    const json& formal = body.at("inputs");
    if (inputs.size() - body_at - 1 != formal.size())
      throw Error(ErrorKind::kModel, Str(where(), inputs.size() - body_at - 1, " arguments for ",
                                         formal.size(), " inputs of the body"));
    Names names;
    for (size_t i = 0; i < formal.size(); ++i) {
      const std::string inner = NameIn(formal[i]);
      json actual = inputs[body_at + 1 + i].at("arg");
      Rename(actual, aliases_);
      const std::string outer = NameIn(actual);
      if (!inner.empty() && outer.empty())
        throw Error(ErrorKind::kModel, where() + "a constant stands for a value of the body");
      if (!inner.empty()) names[inner] = outer;
    }
    for (const char* table : kMetaTables)
      if (body.contains(table))
        for (auto& [name, meta] : body[table].items()) {
          if (names.contains(name)) continue;
          names[name] = Fresh(name);
          graph_[table][names[name]] = std::move(meta);
        }
    for (json& node : body.at("nodes")) {
      for (json& input : node.at("inputs")) Rename(input.at("arg"), names);
      Rename(node.at("outputs"), names);
      if (node.contains("name")) {
        const auto known = names.find(node["name"].get<std::string>());
        node["name"] = known != names.end() ? known->second : Fresh(node["name"]);
      }
      nodes.push_back(std::move(node));
    }
    Results(call, body.at("outputs"), names, where());
  }

  /// The call's results are the body's outputs under other names.
  void Results(const json& call, json outputs, const Names& names, const std::string& where) {
    Rename(outputs, names);
    json results = json::array();
    for (const json& item : call.at("outputs")) {
      if (KeyOf(item) != "as_tensors") {
        results.push_back(item);
        continue;
      }
      for (const json& tensor : item.at("as_tensors"))
        results.push_back(json{{"as_tensor", tensor}});
    }
    if (results.size() != outputs.size())
      throw Error(ErrorKind::kModel, Str(where, results.size(), " results of a body with ",
                                         outputs.size(), " outputs"));
    for (size_t i = 0; i < results.size(); ++i) {
      const std::string result = NameIn(results[i]), value = NameIn(outputs[i]);
      if (result.empty()) continue;
      if (value.empty()) throw Error(ErrorKind::kModel, where + "a result is a constant");
      aliases_[result] = value;
    }
  }

  json& graph_;
  std::set<std::string> taken_;
  Names aliases_;  // result of a call -> value that takes its place
};

/// What took the place of the calls' results.
Names InlineInGraph(json& graph) {
  bool any = false;
  for (const json& node : graph.at("nodes")) any = any || IsPlainWrapper(node);
  if (!any) return {};
  Inliner inliner(graph);
  inliner.Run();
  return inliner.aliases();
}

}  // namespace

void InlineSubgraphs(json& module) {
  const Names aliases = InlineInGraph(module.at("graph"));
  for (json& item : module.at("signature").at("output_specs"))
    if (item.contains("user_output")) Rename(item["user_output"].at("arg"), aliases);
}

}  // namespace espalier::pt2
