#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "env/base/tensor.h"

namespace espalier {

/// The classes of module torch that torch.save names an element type by.
inline constexpr std::array<std::pair<std::string_view, at::ScalarType>, 11> kStorageTypes = {
    {{"FloatStorage", at::kFloat},
     {"DoubleStorage", at::kDouble},
     {"HalfStorage", at::kHalf},
     {"BFloat16Storage", at::kBFloat16},
     {"ComplexFloatStorage", at::kComplexFloat},
     {"LongStorage", at::kLong},
     {"IntStorage", at::kInt},
     {"ShortStorage", at::kShort},
     {"CharStorage", at::kChar},
     {"ByteStorage", at::kByte},
     {"BoolStorage", at::kBool}}};

}  // namespace espalier
