#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>

#include "env/cost/cost.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "experiments/model_source.h"
#include "experiments/run_config.h"

namespace espalier {

/// What it takes to make the same Space again: saved in certificate.json as "source".
struct CutSource {
  ModelConfig model;  ///< paths absolute
  uint64_t seed = 0;  ///< of random weights and of the certificate's draws
  SpaceConfig space;
  std::string file_sha256;
};

/// A cut network on its way out.
struct Delivery {
  const Network& network;  ///< final weights, CPU
  const Network& cut;      ///< right after the cut: what the certificate speaks about
  const Plan& plan;
  const Certificate& certificate;
  nlohmann::ordered_json cost;  ///< before and after, per convention
  CutSource source;
  std::string normalisation;  ///< as in weights files; empty = unknown
};

/// Writes model.pt2, weights.safetensors, state_dict.pt, plan.json and, last, certificate.json.
void WriteDelivery(const std::filesystem::path& folder, const Delivery& delivery);

/// Cost of the uncut and of the cut network under every convention:
/// {"canonical": {"macs": [before, after], "params": [...]}, ..., "activation_bytes": [...]}.
nlohmann::ordered_json CostTable(const CostModel& cost, const Selection& selection);

struct VerifyReport {
  bool passed = true;
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();  ///< name, passed, detail
  Certificate certificate;                                          ///< made again
};

/// Re-checks a folder that WriteDelivery filled: makes the Space, the plan and the certificate
/// again from the source weights, and compares hashes, shapes and cost of what lies there. model:
/// another place of the source network ("" = as recorded). Errors: kIo, kModel for missing or
/// damaged files.
VerifyReport VerifyDelivery(const std::filesystem::path& folder, const std::string& model);

/// The selection a plan stands for. Errors: kModel when its groups are not the space's.
Selection SelectionOf(const Space& space, const Plan& plan);

}  // namespace espalier
