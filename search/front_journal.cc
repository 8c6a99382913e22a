#include "search/front_journal.h"

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "search/json_lines.h"

namespace espalier {

using nlohmann::json;

namespace {

constexpr const char* kFormat = "espalier-front";
constexpr int kVersion = 3;

std::string Line(const FrontGeneration& generation) {
  json orders = json::array();
  for (const FrontOrder& order : generation.orders)
    orders.push_back({{"scale", order.scale}, {"shift", order.shift}, {"values", order.values}});
  return json{
      {"orders", orders}, {"left_out", generation.left_out}, {"seconds", generation.seconds}}
      .dump();
}

FrontGeneration GenerationFromJson(const json& line) {
  FrontGeneration generation{{}, line.at("left_out"), line.at("seconds")};
  for (const json& order : line.at("orders"))
    generation.orders.push_back({order.at("scale"), order.at("shift"), order.at("values")});
  return generation;
}

}  // namespace

std::optional<FrontJournal> ReadFrontJournal(const std::filesystem::path& file) {
  std::optional<FrontJournal> journal;
  ReadJsonLines(file, "the file is damaged or of another version; remove it to start over",
                [&](size_t, const json& line) {
                  if (journal && line.contains("damage")) {
                    line.at("damage").get_to(journal->damage);
                    return;
                  }
                  if (journal) {
                    journal->generations.push_back(GenerationFromJson(line));
                    return;
                  }
                  if (line.at("format") != kFormat)
                    throw std::runtime_error("not a journal of 'front'");
                  if (line.value("version", 1) != kVersion)
                    throw std::runtime_error(Str("version ", line.value("version", 1),
                                                 ", this program continues version ", kVersion));
                  journal = FrontJournal{.fingerprint = line.at("fingerprint")};
                });
  return journal;
}

void WriteFrontJournal(const std::filesystem::path& file, const FrontJournal& journal) {
  std::string text =
      json{{"format", kFormat}, {"version", kVersion}, {"fingerprint", journal.fingerprint}}
          .dump() +
      "\n";
  if (!journal.damage.empty()) text += json{{"damage", journal.damage}}.dump() + "\n";
  for (const FrontGeneration& generation : journal.generations) text += Line(generation) + "\n";
  WriteFileAtomic(file, text);
}

void AppendGeneration(const std::filesystem::path& file, const FrontGeneration& generation) {
  AppendLine(file, Line(generation));
}

}  // namespace espalier
