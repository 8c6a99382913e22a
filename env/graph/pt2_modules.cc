#include "env/graph/pt2_modules.h"

#include <algorithm>
#include <set>

#include "env/base/error.h"

namespace espalier::pt2 {
namespace {

constexpr const char* kUnknownClass = "torch.nn.modules.module.Module";

/// Splits "key,path,type" at commas outside of brackets.
std::vector<std::string> SplitEntry(const std::string& text) {
  std::vector<std::string> parts(1);
  int depth = 0;
  for (const char c : text) {
    if (c == '[' || c == '(') ++depth;
    if (c == ']' || c == ')') --depth;
    if (c == ',' && depth == 0)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

/// "a.b.c" -> "a", "a.b", "a.b.c".
std::vector<std::string> PathsOf(const std::string& path) {
  std::vector<std::string> paths;
  for (size_t end = 0; !path.empty() && end != std::string::npos;) {
    end = path.find('.', end + 1);
    paths.push_back(path.substr(0, end));
  }
  return paths;
}

}  // namespace

std::vector<ModulePlace> ParseModuleStack(const std::string& text) {
  std::vector<ModulePlace> stack;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(';', begin), text.size());
    const auto parts = SplitEntry(text.substr(begin, end - begin));
    // "relu@1" is the second call of relu.
    if (parts.size() == 3) stack.push_back({parts[1].substr(0, parts[1].find('@')), parts[2]});
    begin = end + 1;
  }
  return stack;
}

ModuleStackWriter::ModuleStackWriter(const std::vector<ModulePlace>& ops,
                                     std::map<std::string, std::string> types)
    : types_(std::move(types)) {
  std::set<std::string> containers = {""};
  for (const ModulePlace& op : ops) {
    const std::vector<std::string> paths = PathsOf(op.path);
    for (size_t i = 0; i + 1 < paths.size(); ++i) containers.insert(paths[i]);
  }
  for (const ModulePlace& op : ops)
    if (!op.type.empty() && !containers.contains(op.path)) types_.emplace(op.path, op.type);
}

std::string ModuleStackWriter::Next(const std::string& path) {
  const std::vector<std::string> paths = PathsOf(path);
  size_t shared = 0;
  while (shared < paths.size() && shared < open_.size() && open_[shared].path == paths[shared])
    ++shared;
  open_.resize(shared);
  for (size_t i = shared; i < paths.size(); ++i) {
    const int64_t call = calls_[paths[i]]++;
    open_.push_back({paths[i], call == 0 ? paths[i] : Str(paths[i], "@", call)});
  }
  std::string text = Str("L__self__,,", ClassOf(""));
  for (const Entered& module : open_)
    text += Str(";L__self__", module.key, ",", module.path, ",", ClassOf(module.path));
  return text;
}

std::string ModuleStackWriter::ClassOf(const std::string& path) const {
  const auto known = types_.find(path);
  const bool usable = known != types_.end() && !known->second.empty() &&
                      known->second.find_first_of(",;[]()") == std::string::npos;
  return usable ? known->second : kUnknownClass;
}

}  // namespace espalier::pt2
