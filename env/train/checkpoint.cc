#include "env/train/checkpoint.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/io.h"

namespace espalier {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "espalier-train-1";
constexpr const char* kHint =
    "delete the file to train from the start, or name another output folder";

std::string HashTensor(const Tensor& tensor) {
  const Tensor bytes = tensor.cpu().contiguous();
  return Sha256Hex({static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()});
}

std::string SchemaText(const Schema& schema) {
  std::string text;
  for (const Field& field : schema.fields())
    text += Str(field.name, '=', CurrentValue(field), '\n');
  return text;
}

json ToJson(const EpochRecord& record) {
  return {record.epoch,
          record.lr,
          record.train_loss,
          record.train_accuracy,
          record.validation_accuracy,
          record.seconds};
}

EpochRecord RecordFromJson(const json& row) {
  return {row.at(0).get<int64_t>(), row.at(1).get<double>(), row.at(2).get<double>(),
          row.at(3).get<double>(),  row.at(4).get<double>(), row.at(5).get<double>()};
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

void CheckIdentity(const std::filesystem::path& path, const RunIdentity& identity,
                   const json& found) {
  std::string differing;
  for (const auto& [part, hash] : identity)
    if (!found.contains(part) || found.at(part) != hash)
      differing += Str(differing.empty() ? "" : ", ", part);
  if (!differing.empty()) Fail(path, Str("is of another training; different: ", differing));
}

}  // namespace

RunIdentity IdentifyRun(const Network& network, const Splits& splits, const TrainConfig& config,
                        uint64_t seed) {
  TrainConfig train = config;
  DataConfig data = splits.config();
  data.root = data.seen = "";  // where the files lie, and a remark: no part of the training
  std::string ops;
  for (const Op& op : network.graph.ops) ops += Str(op.name, ' ', op.target(), '\n');
  return {
      {"train config", Sha256Hex(SchemaText(Describe(train)))},
      {"data config", Sha256Hex(SchemaText(Describe(data)))},
      {"data", Sha256Hex(HashTensor(splits.train().images) + HashTensor(splits.train().labels))},
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
  try {
    const json state = json::parse(text->second);
    CheckIdentity(path, identity, state.at("identity"));
    position.epoch = state.at("epoch").get<int64_t>();
    position.batch = state.at("batch").get<int64_t>();
    position.steps = state.at("steps").get<int64_t>();
    position.bfloat16 = state.at("bfloat16").get<bool>();
    position.seconds = state.at("seconds").get<double>();
    for (const json& row : state.at("history")) position.history.push_back(RecordFromJson(row));
  } catch (const json::exception& error) {
    Fail(path, Str("its state is damaged: ", error.what()));
  }
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
