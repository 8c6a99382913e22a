#include "search/strategy.h"

#include "env/base/interrupt.h"

namespace espalier {

const Splits& Environment::Data(const std::string& strategy) const {
  if (splits != nullptr) return *splits;
  throw Error(ErrorKind::kConfig, Str("strategy '", strategy, "' needs training data"),
              "add a [data] table, or choose a strategy without the fact \"needs data\"");
}

bool SearchContext::StopRequested() const { return InterruptRequested() || (stop && stop()); }

}  // namespace espalier
