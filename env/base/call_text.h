#pragma once

#include <string>
#include <vector>

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

}  // namespace espalier
