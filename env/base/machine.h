#pragma once

#include <string>

namespace espalier {

std::string ProcessorName();  ///< as the system gives it; "unknown" when it does not

/// Models of the NVIDIA devices, with commas; "" when there are none.
std::string AcceleratorNames();

}  // namespace espalier
