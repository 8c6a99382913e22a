#pragma once

namespace espalier {

inline constexpr const char* kVersion = ESPALIER_VERSION;

}  // namespace espalier
