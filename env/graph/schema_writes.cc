#include "env/graph/schema_writes.h"

#include <set>

namespace espalier {

bool MayReturnItsArgument(const Op& op) {
  static const std::set<std::string> kNames = {
      "aten::reshape",   "aten::flatten", "aten::contiguous",      "aten::to",
      "aten::type_as",   "aten::view_as", "aten::expand_as",       "aten::reshape_as",
      "aten::dropout",   "aten::ravel",   "aten::feature_dropout", "aten::alpha_dropout",
      "aten::unflatten", "aten::pad",     "aten::broadcast_to",    "aten::chunk"};
  const auto& schema = op.handle.schema();
  for (const c10::Argument& argument : schema.arguments())
    if (argument.alias_info()) return true;
  return kNames.contains(op.handle.operator_name().name);
}

}  // namespace espalier
