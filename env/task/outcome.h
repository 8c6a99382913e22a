#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "env/base/tensor.h"
#include "env/data/dataset.h"

namespace espalier {

/// A tensor beside one of the same shape that it should be like.
struct ValuePair {
  Tensor value, wanted;  ///< [B, ...] each, of one floating type
};

/// What a network returned for a batch, and what that is compared with.
struct Outcome {
  Batch batch;
  std::vector<Tensor> outputs;        ///< all outputs of the network
  std::vector<Tensor> uncut{};        ///< of the uncut network; empty when nothing asks for them
  std::vector<ValuePair> features{};  ///< inside both networks, where a loss asks for them
};

/// Facts of the registry entries of losses and metrics.
inline constexpr const char* kNeedsTargets = "needs targets";
inline constexpr const char* kNeedsUncut = "compares with the uncut network";
inline constexpr const char* kNeedsClasses = "targets are classes";
inline constexpr const char* kNeedsFeatures = "compares features";

/// Logits with their classes on axis 1, and the class each position should have, -100 where none
/// counts.
struct Classified {
  Tensor logits;   ///< [B, C, ...], floating
  Tensor classes;  ///< [B, ...] int64
};

/// The views of an outcome that losses and metrics take. Classes stand on axis 1, as in PyTorch, or
/// on the last of three when targets fit there. Without targets they stand on `class_axis`; 0 =
/// axis 1, and of three axes the last ([batch, token, word]).
/// Errors   kData and kModel saying what `name` needs and what is there.
Classified AgainstTargets(const Outcome& outcome, const std::string& name);
/// Logits of all tokens but the last against the tokens after the first: those of the targets, else
/// of the inputs.
Classified AgainstNextTokens(const Outcome& outcome, const std::string& name);
/// Logits of the network and of the uncut one, classes on axis 1.
struct LogitPair {
  Tensor logits, uncut;  ///< [B, C, ...] each
};
LogitPair AgainstUncut(const Outcome& outcome, const std::string& name, int64_t class_axis);
/// Outputs beside targets, or beside floating outputs of the uncut network.
std::vector<ValuePair> ValuesAndTargets(const Outcome& outcome, const std::string& name);
std::vector<ValuePair> ValuesAndUncut(const Outcome& outcome, const std::string& name);

}  // namespace espalier
