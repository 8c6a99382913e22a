#include "experiments/space_json.h"

#include <sys/wait.h>
#include <unistd.h>

#include <set>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

/// Runs `dot` without a shell: file names stay file names.
void RunDot(const std::string& format, const std::string& in, const std::string& out) {
  const pid_t child = ::fork();
  if (child < 0) throw Error(ErrorKind::kIo, "cannot start 'dot'");
  if (child == 0) {
    const std::string type = "-T" + format;
    ::execlp("dot", "dot", type.c_str(), "-o", out.c_str(), in.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  const bool absent = WIFEXITED(status) && WEXITSTATUS(status) == 127;
  throw Error(ErrorKind::kIo, absent ? "'dot' is not installed" : "'dot' failed on the graph",
              "apt-get install graphviz, or give a name that ends in .dot");
}

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace

const char* RoleName(MemberRole role) {
  switch (role) {
    case MemberRole::kProducer:
      return "producer";
    case MemberRole::kConsumer:
      return "consumer";
    case MemberRole::kChannel:
      return "channel";
  }
  return "";
}

ordered_json SpaceToJson(const Space& space, const CostModel& cost) {
  ordered_json json;
  json["groups"] = ordered_json::array();
  for (const auto& group : space.groups()) {
    ordered_json members = ordered_json::array();
    for (const auto& member : group.members)
      members.push_back({{"parameter", member.parameter},
                         {"axis", member.axis},
                         {"role", RoleName(member.role)},
                         {"first_unit", member.first_unit},
                         {"units", member.units()},
                         {"per_unit", member.per_unit},
                         {"blocks", member.blocks}});
    json["groups"].push_back({{"name", group.name},
                              {"kind", group.kind},
                              {"units", group.units},
                              {"blocks", group.blocks},
                              {"exact", group.exact},
                              {"members", members}});
  }
  json["pinned"] = ordered_json::array();
  for (const auto& pin : space.pins())
    json["pinned"].push_back({{"parameter", pin.parameter},
                              {"axis", pin.axis},
                              {"count", pin.count},
                              {"reason", pin.reason}});
  for (const auto convention : {Convention::kCanonical, Convention::kThop, Convention::kAutobot}) {
    const Cost full = cost.Full(convention);
    json["cost"][ConventionName(convention)] = {{"macs", static_cast<int64_t>(full.macs)},
                                                {"params", static_cast<int64_t>(full.params)}};
  }
  json["cost"]["activation_bytes"] = static_cast<int64_t>(cost.Full().activation_bytes);
  json["uncounted"] = cost.uncounted();
  return json;
}

std::string SpaceToDot(const Space& space) {
  const Graph& graph = space.network().graph;
  std::map<std::string, int32_t> producer;  // parameter -> group that cuts its axis 0
  for (size_t group = 0; group < space.groups().size(); ++group)
    for (const auto& member : space.groups()[group].members)
      if (member.role == MemberRole::kProducer)
        producer.emplace(member.parameter, static_cast<int32_t>(group));
  std::string dot = Str("digraph \"", Escaped(space.network().name),
                        "\" {\n  rankdir=TB; bgcolor=\"transparent\";\n"
                        "  node [shape=box, style=\"rounded,filled\", fillcolor=\"#eef1f5\", "
                        "color=\"#8a94a6\", fontname=\"Helvetica\", fontsize=10];\n"
                        "  edge [color=\"#8a94a6\", arrowsize=0.6];\n");
  for (const auto& input : graph.inputs)
    dot +=
        Str("  v", input.value, " [label=\"",
            Escaped(graph.values[static_cast<size_t>(input.value)].name), "\", shape=ellipse];\n");
  for (size_t index = 0; index < graph.ops.size(); ++index) {
    const Op& op = graph.ops[index];
    int32_t group = -1;
    std::set<ValueId> read;
    for (const Use& use : UsesOf(op)) {
      const Value& value = graph.values[static_cast<size_t>(use.value)];
      if (value.kind == ValueKind::kParameter && producer.contains(value.target))
        group = producer[value.target];
      if (value.kind == ValueKind::kResult || value.kind == ValueKind::kInput)
        read.insert(use.value);
    }
    std::string label =
        Escaped(op.module_path.empty() ? op.name : op.module_path) + "\\n" + Escaped(op.target());
    std::string fill;
    if (group >= 0) {
      const auto& found = space.groups()[static_cast<size_t>(group)];
      label += Str("\\n", found.units, " units");
      // Golden-angle hues keep neighbouring groups apart.
      fill = Str(", fillcolor=\"", (group * 137 % 360) / 360.0, " 0.28 0.97\"");
    }
    dot += Str("  o", index, " [label=\"", label, "\"", fill, "];\n");
    for (const ValueId value : read) {
      const auto& from = graph.values[static_cast<size_t>(value)];
      dot += from.producer < 0 ? Str("  v", value) : Str("  o", from.producer);
      dot += Str(" -> o", index, ";\n");
    }
  }
  return dot + "}\n";
}

void WriteGraph(const Space& space, const std::filesystem::path& file) {
  const std::string dot = SpaceToDot(space);
  const std::string ending = file.extension().string();
  if (ending == ".dot") {
    WriteFileAtomic(file, dot);
    return;
  }
  if (ending != ".svg" && ending != ".png" && ending != ".pdf")
    throw Error(ErrorKind::kUsage, Str("'", file.string(), "': cannot draw this kind of file"),
                "one of .svg, .png, .pdf, .dot");
  auto source = file;
  source += ".dot.tmp";
  WriteFileAtomic(source, dot);
  try {
    WriteFileAtomic(file, [&](const std::filesystem::path& temporary) {
      RunDot(ending.substr(1), source.string(), temporary.string());
    });
  } catch (...) {
    std::filesystem::remove(source);
    throw;
  }
  std::filesystem::remove(source);
}

}  // namespace espalier
