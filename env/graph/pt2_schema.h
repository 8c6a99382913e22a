#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string>

#include "env/graph/network.h"

/// What reader and writer of torch.export archives share: entry names and the format's numbering.
namespace espalier::pt2 {

inline constexpr int64_t kSchemaMajor = 8;  ///< the only number torch checks
inline constexpr int64_t kSchemaMinor = 20;
inline constexpr const char* kModelEntry = "models/model.json";
inline constexpr const char* kWeightsFolder = "data/weights/";
inline constexpr const char* kConstantsFolder = "data/constants/";
inline constexpr const char* kWeightsConfig = "data/weights/model_weights_config.json";
inline constexpr const char* kConstantsConfig = "data/constants/model_constants_config.json";
inline constexpr const char* kSampleInputs = "data/sample_inputs/model.pt";
inline constexpr const char* kExtraFolder = "extra/";
/// Key in Network::extras: what the archive said, for the writer, which changes only what differs:
/// {"program": models/model.json, "weights_config", "constants_config", "module_types": {path:
/// class}}.
inline constexpr const char* kOrigin = "origin.json";

/// The format numbers dtypes, layouts and memory formats in its own way.
std::optional<int64_t> DtypeNumber(at::ScalarType dtype);
std::optional<at::ScalarType> DtypeOf(int64_t number);
std::optional<int64_t> LayoutNumber(at::Layout layout);
std::optional<at::Layout> LayoutOf(int64_t number);
std::optional<int64_t> MemoryFormatNumber(at::MemoryFormat format);
std::optional<at::MemoryFormat> MemoryFormatOf(int64_t number);

/// "torch.ops.aten.add.Tensor" or "_operator.mul" <-> the operator the executor calls. Arithmetic
/// on sizes, which Python does outside of ATen, has operators of our own (sym_ops.cc).
/// Errors   kModel for a target that is no operator of this LibTorch.
c10::OperatorHandle OperatorOf(const std::string& target);
std::string TargetOf(const Op& op);
bool IsSymbolArithmetic(const Op& op);  ///< an operator of sym_ops.cc

/// True for the results that are sizes (int), not tensors.
bool ReturnsInt(const Op& op);

}  // namespace espalier::pt2
