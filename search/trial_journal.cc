#include "search/trial_journal.h"

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "search/json_lines.h"

namespace espalier {

using nlohmann::json;

namespace {

json ToJson(const Trial& trial) {
  return {{"number", trial.number},
          {"origin", trial.origin},
          {"decision", trial.proposal.decision},
          {"as_is", trial.proposal.as_is},
          {"fidelity", trial.proposal.fidelity},
          {"kept", trial.kept},
          {"feasible", trial.feasible},
          {"failed", trial.failed},
          {"cause", trial.cause},
          {"value", trial.value},
          {"standard_error", trial.standard_error},
          {"samples", trial.samples},
          {"dropped", trial.dropped},
          {"macs", trial.cost.macs},
          {"params", trial.cost.params},
          {"activation_bytes", trial.cost.activation_bytes},
          {"latency_ms", trial.cost.latency_ms}};
}

Trial TrialFromJson(const json& line) {
  Trial trial;
  trial.number = line.at("number");
  trial.origin = line.at("origin");
  trial.proposal.decision = line.at("decision").get<Decision>();
  trial.proposal.as_is = line.at("as_is");
  trial.proposal.fidelity = line.at("fidelity");
  trial.kept = line.at("kept").get<std::vector<int64_t>>();
  trial.feasible = line.at("feasible");
  trial.failed = line.at("failed");
  trial.cause = line.at("cause");
  trial.value = line.at("value");
  trial.standard_error = line.at("standard_error");
  trial.samples = line.at("samples");
  trial.dropped = line.at("dropped");
  trial.cost = {.macs = line.at("macs"),
                .params = line.at("params"),
                .activation_bytes = line.at("activation_bytes"),
                .latency_ms = line.value("latency_ms", 0.0)};
  return trial;
}

std::string Line(std::span<const Trial> batch, const SearchWork& work) {
  json trials = json::array();
  for (const Trial& trial : batch) trials.push_back(ToJson(trial));
  return json{{"trials", trials}, {"seconds", work.seconds}, {"forwards", work.forwards}}.dump();
}

}  // namespace

TrialJournal ReadJournal(const std::filesystem::path& file) {
  TrialJournal journal;
  ReadJsonLines(file, "the file is damaged or not a search's trials.jsonl",
                [&](size_t number, const json& line) {
                  if (number == 1) {
                    if (line.at("format") != "espalier-trials")
                      throw std::runtime_error("not a trial file");
                    journal.fingerprint = line.at("fingerprint");
                    return;
                  }
                  auto& batch = journal.batches.emplace_back();
                  for (const json& trial : line.at("trials")) batch.push_back(TrialFromJson(trial));
                  journal.work = {line.value("seconds", 0.0), line.value("forwards", int64_t{0})};
                });
  return journal;
}

std::vector<Trial> ReadTrials(const std::filesystem::path& file) {
  std::vector<Trial> trials;
  for (std::vector<Trial>& batch : ReadJournal(file).batches)
    std::move(batch.begin(), batch.end(), std::back_inserter(trials));
  return trials;
}

void WriteJournal(const std::filesystem::path& file, const TrialJournal& journal) {
  std::string text =
      json{{"format", "espalier-trials"}, {"version", 1}, {"fingerprint", journal.fingerprint}}
          .dump() +
      "\n";
  for (const std::vector<Trial>& batch : journal.batches) text += Line(batch, journal.work) + "\n";
  WriteFileAtomic(file, text);
}

void AppendBatch(const std::filesystem::path& file, std::span<const Trial> batch,
                 const SearchWork& work) {
  AppendLine(file, Line(batch, work));
}

}  // namespace espalier
