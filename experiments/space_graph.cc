#include "experiments/space_graph.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "experiments/command_line.h"
#include "experiments/folding.h"
#include "experiments/sketch.h"
#include "experiments/space_json.h"

namespace espalier {
namespace {

constexpr size_t kMostStripes = 6;  // more groups on one axis than this are not told apart

std::string Escaped(const std::string& text) {  // inside a quoted string of Graphviz
  std::string escaped;
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string Markup(const std::string& text) {  // inside an HTML-like label
  std::string escaped;
  for (const char c : text)
    escaped += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return escaped;
}

/// Neighbouring groups get hues a golden angle apart.
std::string Colour(int32_t group, double saturation, double value) {
  const double hue = std::fmod(0.56 + 0.381966 * group, 1.0);
  return Str(Fixed(hue, 3), ' ', saturation, ' ', group % 2 ? value : value - 0.05);
}

/// The sketch in Graphviz's language.
class DotWriter {
 public:
  DotWriter(const Space& space, const CostModel& cost)
      : space_(space), governed_(GovernedCosts(cost)), nodes_(SketchNetwork(space)) {}

  std::string Text() const {
    std::map<std::string, std::vector<size_t>> blocks;
    for (size_t i = 0; i < nodes_.size(); ++i) blocks[nodes_[i].block].push_back(i);
    std::string dot = Header();
    int32_t cluster = 0;
    for (const auto& [block, members] : blocks) {
      const bool drawn = !block.empty() && members.size() > 1;
      if (drawn)
        dot += Str("  subgraph cluster_", cluster++, " {\n    label=\"", Escaped(block),
                   "\"; tooltip=\"", Escaped(block), "\"; style=\"rounded\"; color=\"#c3cad5\";\n");
      for (const size_t i : members) dot += "    " + NodeText(i, drawn ? block : "");
      if (drawn) dot += "  }\n";
    }
    for (size_t i = 0; i < nodes_.size(); ++i)
      for (const int32_t from : nodes_[i].from) dot += EdgeText(from, i);
    return dot + "}\n";
  }

 private:
  std::string Header() const {
    const std::string title = Str(space_.network().name, ": ", space_.groups().size(), " groups, ",
                                  WithCommas(space_.total_units()), " units");
    return Str(
        "digraph \"", Escaped(space_.network().name), "\" {\n",
        "  rankdir=TB; ranksep=0.22; nodesep=0.18; bgcolor=white; fontname=Helvetica;\n"
        "  fontsize=9; fontcolor=\"#5b6678\"; labelloc=t; labeljust=l; tooltip=\" \";\n"
        "  label=<<font point-size=\"13\" color=\"#1c2430\"><b>",
        Markup(title),
        "</b></font><br align=\"left\"/>A colour is the group of what a layer makes; grey is "
        "pinned. Hover for units, cost and reasons.<br align=\"left\"/>>;\n"
        "  node [shape=box, style=filled, fillcolor=\"#e3e6eb\", color=\"#8a94a6\", "
        "fontname=Helvetica, fontsize=10, margin=\"0.09,0.03\", height=0.2];\n"
        "  edge [color=\"#9aa4b5\", arrowsize=0.5, penwidth=1.2];\n");
  }

  std::string NodeText(size_t index, const std::string& block) const {
    const SketchNode& node = nodes_[index];
    std::string attributes;
    if (node.look == SketchNode::Look::kEnd) {
      attributes = Str("label=\"", Escaped(node.name), "\", shape=ellipse, fillcolor=white");
    } else if (node.look == SketchNode::Look::kJoin) {
      const bool sign = !std::isalpha(static_cast<unsigned char>(node.name[0]));
      attributes = Str("label=\"", Escaped(node.name), "\", shape=", sign ? "circle" : "ellipse",
                       ", margin=0, fontsize=9, fixedsize=", sign ? "true, width=0.2" : "false",
                       ", height=0.2", Fill(node));
    } else {
      const auto inside = [&](const std::string& name) {
        return block.empty() || !name.starts_with(block + ".") ? name
                                                               : name.substr(block.size() + 1);
      };
      std::string label = Str("<b>", Markup(inside(node.name)), "</b>");
      for (const auto& name : node.merged)
        label += Str(" <font color=\"#5b6678\">+ ", Markup(inside(name)), "</font>");
      label += Str("<br/><font point-size=\"8\">", Markup(node.type), "  ", node.shape, "</font>");
      attributes = Str("label=<", label, ">", Fill(node));
    }
    return Str("n", index, " [", attributes, ", tooltip=\"", Tooltip(node), "\"];\n");
  }

  /// Stripes in proportion to the coordinates of each group.
  std::string Fill(const SketchNode& node) const {
    if (node.groups.empty() || (node.groups.size() == 1 && node.groups[0].first < 0)) return "";
    const auto shade = [](int32_t group) {
      return group < 0 ? "#c9ced6" : Colour(group, 0.3, 0.98);
    };
    if (node.groups.size() == 1 || node.look == SketchNode::Look::kJoin)
      return node.groups.size() == 1 ? Str(", fillcolor=\"", shade(node.groups[0].first), "\"")
                                     : ", fillcolor=white";
    if (node.groups.size() > kMostStripes) return ", fillcolor=white";
    double total = 0;
    for (const auto& [group, count] : node.groups) total += static_cast<double>(count);
    std::string stripes;
    for (const auto& [group, count] : node.groups) {
      const bool last = group == node.groups.back().first;  // takes what is left
      stripes += Str(stripes.empty() ? "" : ":", shade(group),
                     last ? "" : Str(';', Fixed(static_cast<double>(count) / total, 4)));
    }
    return Str(", style=striped, fillcolor=\"", stripes, "\"");
  }

  std::string Tooltip(const SketchNode& node) const {
    std::string text = node.look == SketchNode::Look::kLayer
                           ? Str(node.name, " (", node.type, ") ", node.shape)
                       : node.look == SketchNode::Look::kJoin ? node.type
                                                              : node.name;
    for (const auto& name : node.merged) text += "\n+ " + name;
    text += "\nmakes " + node.value;
    for (const auto& [index, count] : node.groups) {
      if (index < 0) {
        text += Str("\n", WithCommas(count), " coordinates are pinned");
        continue;
      }
      const Group& group = space_.groups()[static_cast<size_t>(index)];
      const Cost& cost = governed_[static_cast<size_t>(index)];
      text += Str("\ngroup ", group.name, ": ", group.units, " units (", group.kind, "), governs ",
                  Millions(cost.macs), " MACs and ", Millions(cost.params), " parameters");
    }
    for (const auto& pin : space_.pins())
      if (node.parameters.contains(pin.parameter))
        text += Str("\npinned: ", pin.parameter, " axis ", pin.axis, ", ", pin.count,
                    " coordinates: ", pin.reason);
    std::string lines;
    for (const char c : Escaped(text)) lines += c == '\n' ? std::string("\\n") : std::string(1, c);
    return lines;
  }

  std::string EdgeText(int32_t from, size_t to) const {
    const SketchNode& source = nodes_[static_cast<size_t>(from)];
    std::string colour;
    if (source.groups.size() == 1 && source.groups[0].first >= 0)
      colour = Str(", color=\"", Colour(source.groups[0].first, 0.55, 0.8), "\"");
    return Str("  n", from, " -> n", to, " [tooltip=\"", source.value, "\"", colour, "];\n");
  }

  const Space& space_;
  const std::vector<Cost> governed_;
  const std::vector<SketchNode> nodes_;
};

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
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    throw Error(ErrorKind::kIo, "'dot' of Graphviz, which draws the graph, is not installed",
                "apt-get install graphviz; or write the source: --graph FILE.dot");
  throw Error(ErrorKind::kIo, "'dot' failed on the graph",
              "write the source and look: --graph FILE.dot");
}

}  // namespace

std::string SpaceToDot(const Space& space, const CostModel& cost) {
  return DotWriter(space, cost).Text();
}

void CheckGraphFile(const std::filesystem::path& file) {
  static const std::set<std::string> kEndings = {".svg", ".png", ".pdf", ".dot"};
  if (!kEndings.contains(file.extension().string()))
    throw Error(ErrorKind::kUsage, Str("'", file.string(), "': cannot draw this kind of file"),
                "one of .svg, .png, .pdf, .dot");
}

void WriteGraph(const Space& space, const CostModel& cost, const std::filesystem::path& file) {
  CheckGraphFile(file);
  const std::string dot = SpaceToDot(space, cost);
  if (file.extension() == ".dot") {
    WriteFileAtomic(file, dot);
    return;
  }
  auto source = file;
  source += ".dot.tmp";
  WriteFileAtomic(source, dot);
  try {
    WriteFileAtomic(file, [&](const std::filesystem::path& temporary) {
      RunDot(file.extension().string().substr(1), source.string(), temporary.string());
    });
  } catch (...) {
    std::filesystem::remove(source);
    throw;
  }
  std::filesystem::remove(source);
}

}  // namespace espalier
