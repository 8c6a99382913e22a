#pragma once

#include <map>
#include <string>
#include <vector>

namespace espalier::pt2 {

/// A module of the user's model: "layer1.0.conv1", "torch.nn.modules.conv.Conv2d".
struct ModulePlace {
  std::string path, type;
};

/// The modules around a node, outermost first, from its nn_module_stack metadata
/// "L__self__,,Root;L__self__conv,conv,torch.nn.modules.conv.Conv2d". Entries of another form are
/// left out: the metadata is only used for names.
std::vector<ModulePlace> ParseModuleStack(const std::string& text);

/// Writes that metadata for ops in execution order. A module that is left and entered again gets a
/// new key ("relu@1"), as torch numbers its calls: unflatten rebuilds the calls from it.
class ModuleStackWriter {
 public:
  /// `ops`: the places of all ops. `types`: path -> class where known otherwise.
  /// A path has one class throughout, for unflatten takes a change of class for a new module: a
  /// function called inside a container does not give the container its name.
  ModuleStackWriter(const std::vector<ModulePlace>& ops, std::map<std::string, std::string> types);
  std::string Next(const std::string& path);

 private:
  std::string ClassOf(const std::string& path) const;

  struct Entered {
    std::string path, key;
  };
  std::map<std::string, std::string> types_;
  std::vector<Entered> open_;             // modules around the last op, outermost first
  std::map<std::string, int64_t> calls_;  // by module path
};

}  // namespace espalier::pt2
