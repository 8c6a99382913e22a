#include "env/train/checkpoint.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/checked_json.h"
#include "env/graph/io.h"

namespace espalier {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "espalier-train-1";
constexpr const char* kHint =
    "delete the file to train from the start, or name another output folder";

std::string SchemaText(const Schema& schema) {
  std::string text;
  for (const Field& field : schema.fields())
    text += Str(field.name, '=', CurrentValue(field), '\n');
  return text;
}

json ToJson(const EpochRecord& record) {
  return {
      record.epoch,  record.lr, record.train_loss, record.train_metric, record.validation_metric,
      record.seconds};
}

EpochRecord RecordFromJson(const json& row) {
  if (!row.is_array() || row.size() != 6)
    throw Error(ErrorKind::kData, "'history' has a row that is no list of six numbers");
  return {IntOf(row[0]),    NumberOf(row[1]), NumberOf(row[2]),
          NumberOf(row[3]), NumberOf(row[4]), NumberOf(row[5])};
}

[[noreturn]] void Fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorKind::kData, Str("checkpoint '", path.string(), "': ", what), kHint);
}

TensorFile ReadTensors(const std::filesystem::path& path) {
  try {
    return ReadSafetensors(path);
  } catch (const Error& error) {
    Fail(path, Str("damaged or truncated: ", error.message()));
  }
}

/// The parts of the identity that the file does not have, or has otherwise, or has alone.
std::string DifferingParts(const RunIdentity& identity, const json& found) {
  std::string differing;
  const auto add = [&](const std::string& part) {
    differing += Str(differing.empty() ? "" : ", ", part);
  };
  for (const auto& [part, hash] : identity)
    if (!found.is_object() || !found.contains(part) || found.at(part) != hash) add(part);
  for (const auto& [part, hash] : found.items())
    if (!identity.contains(part)) add(part);
  return differing;
}

}  // namespace

RunIdentity IdentifyRun(const Network& network, const Splits& splits, const Task& task,
                        const TrainConfig& config, uint64_t seed) {
  TrainConfig train = config;
  DataConfig data = splits.config();
  data.root = data.seen = "";  // where the files lie, and a remark: no part of the training
  std::string ops;
  for (const Op& op : network.graph.ops) ops += Str(op.name, ' ', op.target(), '\n');
  return {{"train config", Sha256Hex(SchemaText(Describe(train)))},
          {"data config", Sha256Hex(SchemaText(Describe(data)))},
          {"data", Sha256Hex(splits.train().Hash())},
          {"task", Sha256Hex(Str(task.loss, '\n', task.metric, '\n', task.temperature, '\n',
                                 task.metric_options.top_k))},
          {"network", Sha256Hex(Str(network.name, '\n', ops))},
          {"initial weights", network.WeightsHash()},
          {"seed", std::to_string(seed)}};
}

void WriteCheckpoint(const std::filesystem::path& path, const RunIdentity& identity,
                     const TrainPosition& position, const std::vector<NamedTensor>& tensors) {
  json history = json::array();
  for (const EpochRecord& record : position.history) history.push_back(ToJson(record));
  const json state = {
      {"identity", identity},    {"epoch", position.epoch},       {"batch", position.batch},
      {"steps", position.steps}, {"bfloat16", position.bfloat16}, {"seconds", position.seconds},
      {"history", history}};
  TensorFile file;
  for (const auto& [name, tensor] : tensors)
    file.tensors.emplace_back(name, tensor.detach().cpu().contiguous());
  file.metadata = {{"format", kFormat}, {"state", state.dump()}};
  WriteSafetensors(path, file);
}

TrainPosition ReadCheckpoint(const std::filesystem::path& path, const RunIdentity& identity,
                             const std::vector<NamedTensor>& tensors) {
  const TensorFile file = ReadTensors(path);
  const auto format = file.metadata.find("format"), text = file.metadata.find("state");
  if (format == file.metadata.end() || format->second != kFormat || text == file.metadata.end())
    Fail(path, Str("is no training checkpoint of format ", kFormat));
  TrainPosition position;
  std::string differing;
  try {
    const json state = ParseCheckedJson(text->second);
    differing = DifferingParts(identity, JsonMember(state, "identity"));
    position.epoch = JsonMember(state, "epoch", IntOf);
    position.batch = JsonMember(state, "batch", IntOf);
    position.steps = JsonMember(state, "steps", IntOf);
    position.bfloat16 = JsonMember(state, "bfloat16", BoolOf);
    position.seconds = JsonMember(state, "seconds", NumberOf);
    const json& history = JsonMember(state, "history");
    if (!history.is_array()) throw Error(ErrorKind::kData, "'history' is no list");
    for (const json& row : history) position.history.push_back(RecordFromJson(row));
    if (position.epoch != static_cast<int64_t>(position.history.size()) || position.batch < 0 ||
        position.steps < 0)
      throw Error(ErrorKind::kData,
                  Str("epoch ", position.epoch, ", batch ", position.batch, ", step ",
                      position.steps, " with ", position.history.size(), " epochs in its history"));
  } catch (const Error& error) {
    Fail(path, Str("its state is damaged: ", error.message()));
  }
  if (!differing.empty()) Fail(path, Str("is of another training; different: ", differing));
  const at::NoGradGuard no_grad;
  std::map<std::string, Tensor> found(file.tensors.begin(), file.tensors.end());
  for (const auto& [name, tensor] : tensors) {
    const auto entry = found.find(name);
    if (entry == found.end()) Fail(path, Str("lacks the tensor '", name, "'"));
    if (entry->second.sizes() != tensor.sizes() ||
        entry->second.scalar_type() != tensor.scalar_type())
      Fail(path,
           Str("tensor '", name, "' is ", entry->second.scalar_type(), " ", entry->second.sizes(),
               ", expected ", tensor.scalar_type(), " ", tensor.sizes()));
    Tensor(tensor).copy_(entry->second);
  }
  return position;
}

}  // namespace espalier
