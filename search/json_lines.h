#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace espalier {

/// Hands over the JSON of a journal's lines, numbered from 1. A torn last line is left out: what it
/// was about to say never happened.
/// Errors   kIo; kData with `hint`, naming file and line, for what is no JSON and for whatever
///          `take` throws.
void ReadJsonLines(const std::filesystem::path& file, const std::string& hint,
                   const std::function<void(size_t number, const nlohmann::json& line)>& take);

}  // namespace espalier
