#pragma once

namespace espalier {

/// After this call SIGINT and SIGTERM set a flag instead of killing; a second SIGINT kills.
void CatchInterrupts();
bool InterruptRequested();  ///< long loops ask this between steps
void RequestInterrupt();    ///< tests and embedding programs
void ClearInterrupt();
/// Throws Error{kInterrupted} naming `what` when a stop was requested.
void ThrowIfInterrupted(const char* what);

}  // namespace espalier
