#pragma once

#include <string>

namespace espalier {

std::string ProcessorName();  ///< as the system gives it; "unknown" when it does not

}  // namespace espalier
