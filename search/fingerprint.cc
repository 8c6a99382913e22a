#include "search/fingerprint.h"

#include "env/base/files.h"

namespace espalier {

std::string SearchFingerprint(const std::string& settings, const Environment& environment,
                              const SearchContext& context) {
  std::string text = Str(settings, "/", context.seed, "/", context.trial, "/",
                         environment.network().WeightsHash());
  for (const Group& group : environment.space.groups())
    text += Str("/", group.name, ":", group.units);
  for (const Bound& bound : environment.budget.bounds())
    text += Str("/", static_cast<int>(bound.kind), ":", bound.limit);
  return Sha256Hex(text);
}

}  // namespace espalier
