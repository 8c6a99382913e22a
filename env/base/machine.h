#pragma once

#include <string>

namespace espalier {

std::string ProcessorName();  ///< as the system gives it; "unknown" when it does not

/// Models of the NVIDIA devices, with commas; "" when there are none.
std::string AcceleratorNames();

/// Has the C library keep memory that is freed, in one pool, for what comes next. By default it
/// gives blocks above 32 MiB back at once, and every value of a larger network is then cleared by
/// the system page by page, forward after forward. Once, before the first thread; glibc only,
/// elsewhere nothing happens. What a process has once needed stays with it.
void KeepFreedMemory();

}  // namespace espalier
