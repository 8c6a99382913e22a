#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <optional>
#include <string>

#include "env/data/splits.h"
#include "env/space/certificate.h"
#include "env/task/task.h"

namespace espalier {

struct VerifyReport {
  bool passed = true;
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();  ///< name, passed, detail
  Certificate certificate;                                          ///< made again
};

/// Re-checks a folder that WriteDelivery filled, from the files alone: makes the Space, the plan
/// and the certificate again from the source weights, and compares hashes, shapes, outputs and cost
/// of what lies there. model: another place of the source network ("" = where it was, or where it
/// is as seen from the folder). data: the masked source and what was cut from it also get the same
/// figure on its test samples, to 0.01 point. Errors: kIo, kModel for missing or damaged files.
VerifyReport VerifyDelivery(const std::filesystem::path& folder, const std::string& model,
                            const std::optional<DataConfig>& data = {});

}  // namespace espalier
