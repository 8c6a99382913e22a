#pragma once

#include <memory>
#include <string>
#include <vector>

#include "env/base/registry.h"

namespace espalier {

/// A registered component with options in one text: "l1_norm", "ranking(scope=global, batches=20)",
/// "evolution(criterion=taylor(mode=vector), samples=500)".
struct CallText {
  std::string name;
  std::string options;            ///< as lines of TOML: "scope = \"global\"\nbatches = 20\n"
  std::vector<std::string> keys;  ///< of the options, as given
  bool Has(const std::string& key) const;
};

/// Values that are no number, boolean, quoted text or list become strings. what: "criterion", for
/// errors: kConfig showing the text and how it is written.
CallText ParseCall(const std::string& what, const std::string& text);

/// A registered T and its options in one text. kind: "criterion", for errors: kConfig naming the
/// component or option that is unknown, with the nearest one.
template <typename T>
std::unique_ptr<T> CreateFromCall(const std::string& kind, const std::string& text) {
  const CallText call = ParseCall(kind, text);
  const auto& registry = Registry<T>::Global();
  registry.Get(kind, call.name);
  return registry.Create(
      kind, call.name,
      ConfigDocument::Parse(Str("[", kind, "]\n", call.options), Str(kind, " '", text, "'"))
          .Section(kind));
}

}  // namespace espalier
