#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <nlohmann/json.hpp>
#include <set>

#include "env/base/error.h"
#include "env/graph/archive_writer.h"
#include "env/graph/io.h"
#include "env/graph/pt2_program.h"
#include "env/graph/pt2_schema.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

/// The raw tensors of one folder; tied names share one record. Returns the folder's config.
class TensorFolder {
 public:
  /// `before`: the config of the archive the network came from, or an empty object.
  TensorFolder(caffe2::serialize::PyTorchStreamWriter& writer, std::string folder,
               std::string prefix, ordered_json before)
      : writer_(writer),
        folder_(std::move(folder)),
        prefix_(std::move(prefix)),
        before_(std::move(before)) {}

  void Add(const ParameterStore& store, const std::string& target, bool is_parameter,
           const TensorLoader& load) {
    const Tensor tensor = load(store.Canonical(target)).detach().cpu();
    const ordered_json* known = before_.contains(target) ? &before_[target] : nullptr;
    // What was made for this call has no memory that other names could share.
    const bool keep = known && tensor.is_alias_of(store.Get(target)) &&
                      IsStillTheView(known->at("tensor_meta"), tensor);
    // Views that kept their place in one record still share it; all others stand on their own.
    const std::string key =
        keep ? Str("storage ", tensor.storage().data()) : store.Canonical(target);
    auto found = records_.find(key);
    if (found == records_.end()) {
      found = records_.emplace(key, FreshRecord(known)).first;
      const std::string entry = folder_ + found->second;
      if (keep) {
        writer_.writeRecord(entry, tensor.storage().data(), tensor.storage().nbytes());
      } else {
        const Tensor plain = tensor.contiguous();
        writer_.writeRecord(entry, plain.const_data_ptr(), plain.nbytes());
      }
    }
    ordered_json meta = pt2::StoredMeta(tensor, is_parameter, keep);
    if (known && !known->at("tensor_meta").is_null())
      meta["requires_grad"] = known->at("tensor_meta").at("requires_grad");
    config_[target] = {{"path_name", found->second},
                       {"is_param", known ? known->at("is_param").get<bool>() : is_parameter},
                       {"use_pickle", false},
                       {"tensor_meta", std::move(meta)}};
  }
  ordered_json Config() const { return {{"config", config_}}; }

 private:
  /// The tensor still lies in its record as the archive had it.
  static bool IsStillTheView(const ordered_json& meta, const Tensor& tensor) {
    if (meta.is_null()) return false;
    const ordered_json now = pt2::StoredMeta(tensor, false, /*keep_strides=*/true);
    for (const char* key : {"dtype", "sizes", "strides", "storage_offset"})
      if (meta.at(key) != now.at(key)) return false;
    return true;
  }

  std::string FreshRecord(const ordered_json* known) {
    if (known && !known->at("use_pickle").get<bool>()) {
      const auto name = known->at("path_name").get<std::string>();
      if (name.starts_with(prefix_) && taken_.insert(name).second) return name;
    }
    std::string name;
    do name = Str(prefix_, next_++);
    while (IsSpokenFor(name) || !taken_.insert(name).second);
    return name;
  }
  bool IsSpokenFor(const std::string& record) const {
    for (const auto& [target, entry] : before_.items())
      if (entry.at("path_name") == record) return true;
    return false;
  }

  caffe2::serialize::PyTorchStreamWriter& writer_;
  const std::string folder_, prefix_;
  const ordered_json before_;
  size_t next_ = 0;
  std::set<std::string> taken_;
  std::map<std::string, std::string> records_;  // storage or canonical name -> record
  ordered_json config_ = ordered_json::object();
};

ordered_json ConfigIn(const ordered_json& origin, const char* key) {
  return origin.contains(key) ? origin[key].at("config") : ordered_json::object();
}

ordered_json ProgramOf(const Network& network, ordered_json& origin) {
  if (!origin.contains("program")) return pt2::NewProgram(network);
  try {
    return pt2::PatchedProgram(network, std::move(origin["program"]));
  } catch (const ordered_json::exception& error) {  // parts the reader has no use for
    throw Error(ErrorKind::kModel, Str("the archive that '", network.name,
                                       "' was read from contradicts itself: ", error.what()));
  }
}

}  // namespace

void WritePt2(const std::filesystem::path& path, const Network& network,
              const TensorLoader& given) {
  const TensorLoader load = given ? given : LoaderOf(network.store);
  ordered_json origin = ordered_json::object();
  if (const auto found = network.extras.find(pt2::kOrigin); found != network.extras.end())
    origin = ordered_json::parse(found->second);
  const std::string model = ProgramOf(network, origin).dump();
  WriteArchive(path, [&](caffe2::serialize::PyTorchStreamWriter& writer) {
    const auto put = [&](const std::string& name, const std::string& bytes) {
      writer.writeRecord(name, bytes.data(), bytes.size());
    };
    TensorFolder weights(writer, pt2::kWeightsFolder, "weight_",
                         ConfigIn(origin, "weights_config"));
    TensorFolder constants(writer, pt2::kConstantsFolder, "tensor_",
                           ConfigIn(origin, "constants_config"));
    for (const std::string& target : network.store.names()) {  // the order of the state dict
      const StoreKind kind = network.store.Kind(target);
      (kind == StoreKind::kConstant ? constants : weights)
          .Add(network.store, target, kind == StoreKind::kParameter, load);
    }
    put(pt2::kWeightsConfig, weights.Config().dump());
    put(pt2::kConstantsConfig, constants.Config().dump());
    put(pt2::kModelEntry, model);
    const auto samples = network.extras.find(pt2::kSampleInputs);
    put(pt2::kSampleInputs, samples == network.extras.end() ? "" : samples->second);
    put("archive_format", "pt2");
    put("archive_version", "0");
    put("byteorder", "little");
    for (const auto& [name, bytes] : network.extras)
      if (name.starts_with(pt2::kExtraFolder)) put(name, bytes);
  });
}

}  // namespace espalier
