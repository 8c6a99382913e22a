#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

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
CutSource SourceOf(const ModelSource& model, uint64_t seed, const SpaceOptions& options);
/// folder: where the certificate lies; the source's files may have moved along with it.
CutSource SourceFromJson(const nlohmann::json& json, const std::filesystem::path& folder);

/// A cut network on its way out.
struct Delivery {
  const Network& network;  ///< final weights, CPU
  TensorLoader load{};     ///< its tensors, where the store has only shapes
  const Plan& plan;
  const Certificate& certificate;
  nlohmann::ordered_json cost;  ///< before and after, per convention
  CutSource source;
  std::string normalisation;  ///< as in weights files; empty = unknown
};

/// Errors: kUsage when something else than a folder lies there.
void CheckOutFolder(const std::filesystem::path& out);

/// The files WriteDelivery writes, certificate.json apart.
const std::vector<std::string>& DeliveredFiles();

/// plan.json as `espalier apply` takes it. cost: CostTable's.
void WritePlan(const std::filesystem::path& file, const Plan& plan, const SpaceConfig& space,
               const nlohmann::ordered_json& cost);

/// Writes model.pt2, weights.safetensors, state_dict.pt, plan.json and, last, certificate.json.
void WriteDelivery(const std::filesystem::path& folder, const Delivery& delivery);

/// Certifies a cut that is to be delivered in `folder`. Errors: kInternal naming the first op that
/// differs, or that does not run, when the certificate does not hold; folder/failure.json, with
/// certificate and plan, is then all that is written.
Certificate CertifyOrThrow(const std::filesystem::path& folder, const Space& space,
                           const Selection& selection, const Plan& plan, const Network& cut,
                           uint64_t seed, const TensorLoader& load = {});

/// A cut on its way from a plan to a folder.
struct CutOrder {
  const ModelSource& source;
  SpaceOptions options;
  uint64_t seed;  ///< of random weights and of the certificate's draws
  const Space& space;
  const Selection& selection;
  const Plan& plan;
};
/// Cuts, certifies and writes. json has "cost" and gets "out" and "certificate". lap: told after
/// "surgery", "certificate" and "write". Errors: as CertifyOrThrow.
void DeliverCut(const std::filesystem::path& out, const CutOrder& order,
                nlohmann::ordered_json& json, const std::function<void(const std::string&)>& lap);

/// Cost of the uncut and of the cut network under every convention:
/// {"canonical": {"macs": [before, after], "params": [...]}, ..., "activation_bytes": [...]}.
nlohmann::ordered_json CostTable(const Space& space, const CostModel& cost,
                                 const Selection& selection);

/// What certificate.json says.
struct SavedCertificate {
  Certificate certificate;
  CutSource source;
  std::string weights_sha256;                ///< of the delivered network
  std::map<std::string, std::string> files;  ///< delivered file -> hash
  int64_t macs = 0, params = 0;              ///< after the cut, canonical convention
};
/// Errors: kIo; kModel naming file and key. Paths of the source are looked up beside the file too.
SavedCertificate ReadCertificate(const std::filesystem::path& path);

/// A plan.json, with what it says of the Space it was made in.
struct SavedPlan {
  Plan plan;
  std::optional<SpaceConfig> space;  ///< empty: the file does not say
};
/// Errors: kIo for a missing or damaged file, kModel for what is wrong in it.
SavedPlan ReadSavedPlan(const std::filesystem::path& file);

/// The selection a plan stands for. Errors: kModel when its groups are not the space's.
Selection SelectionOf(const Space& space, const Plan& plan);

}  // namespace espalier
