#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "env/graph/network.h"

/// One argument of a node <-> the one-key union the archive writes for it.
namespace espalier::pt2 {

/// Constants that JSON cannot tell apart (an int may be a dtype) are written as the schema says.
/// Errors   kModel for a kind the format or we do not know; the caller adds the place.
nlohmann::ordered_json ConstantJson(const c10::Argument& argument, const c10::IValue& value);

/// The constant an argument union holds; nothing when it names values.
/// Errors   kModel for unknown unions and for constants the schema does not take.
std::optional<c10::IValue> ConstantOf(const c10::Argument& argument, const nlohmann::json& value);

/// The only key of a union: {"as_tensor": ...} -> "as_tensor". Errors: kModel for other JSON.
const std::string& KeyOf(const nlohmann::json& item);

c10::TypeKind BareKind(const c10::TypePtr& type);     ///< of the type inside an Optional
bool TakesTensorList(const c10::Argument& argument);  ///< Tensor[], Tensor?[], optional or not

}  // namespace espalier::pt2
