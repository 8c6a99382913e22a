#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "env/base/error.h"
#include "env/data/folders.h"
#include "env/graph/io.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kInputs = "inputs.", kTargets = "targets.";

/// One shard's tensors by place.
struct Shard {
  std::map<size_t, Tensor> inputs, targets;
};

std::optional<size_t> Number(const std::string& text) {
  size_t number = 0;
  const auto* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  return number;
}

class ShardReader {
 public:
  ShardReader(const DataConfig& config, const Network& network)
      : config_(config), network_(network) {
    for (const InputSpec& input : network.graph.inputs)
      names_.push_back(network.graph.values[static_cast<size_t>(input.value)].name);
  }

  Dataset ReadFolder(const fs::path& folder) const {
    const auto files = internal::FilesEndingIn(folder, {".safetensors"});
    if (files.empty())
      throw Error(ErrorKind::kData, Str("tensors: no .safetensors in '", folder.string(), "'"),
                  "docs/bring_your_model.md has ten lines of Python that write them");
    std::vector<Shard> shards;
    for (const fs::path& file : files) {
      shards.push_back(ReadShard(file));
      CheckAgainstFirst(shards.front(), shards.back(), files.front(), file);
    }
    return {.inputs = Joined(shards, &Shard::inputs),
            .targets = Joined(shards, &Shard::targets),
            .mean = config_.mean,
            .std = config_.std,
            .crop_flip = config_.augmentation == "crop_flip"};
  }

 private:
  [[noreturn]] static void Fail(const fs::path& file, const std::string& what,
                                const std::string& hint = "") {
    throw Error(ErrorKind::kData, Str("shard '", file.string(), "': ", what), hint);
  }

  std::vector<std::string> ExpectedKeys() const {
    std::vector<std::string> keys;
    for (const std::string& name : names_) keys.push_back(Str(kInputs, name));
    keys.push_back("targets.0");
    return keys;
  }

  /// Place of an input named or numbered so; nothing for any other key.
  std::optional<size_t> InputPlace(const std::string& name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found != names_.end()) return static_cast<size_t>(found - names_.begin());
    const auto number = Number(name);
    return number && *number < names_.size() ? number : std::nullopt;
  }

  Shard ReadShard(const fs::path& file) const {
    Shard shard;
    for (const auto& [key, tensor] : ReadSafetensors(file).tensors) {
      std::optional<size_t> place;
      const bool input = key.starts_with(kInputs);
      if (input) place = InputPlace(key.substr(kInputs.size()));
      if (key.starts_with(kTargets)) place = Number(key.substr(kTargets.size()));
      if (!place)
        Fail(file, Str("tensor '", key, "' is neither an input of the network nor targets.0, ..."),
             SuggestName(key, ExpectedKeys()));
      if (tensor.dim() == 0 || tensor.size(0) == 0)
        Fail(file, Str("tensor '", key, "' is ", tensor.sizes(), ": [samples, ...] is needed"));
      auto& tensors = input ? shard.inputs : shard.targets;
      if (!tensors.emplace(*place, input ? Checked(file, key, *place, tensor) : Target(tensor))
               .second)
        Fail(file, Str("tensor '", key, "' is there by name and by number"));
    }
    CheckComplete(file, shard);
    return shard;
  }

  /// Whole numbers are classes or tokens, truth values go with logits.
  static Tensor Target(const Tensor& tensor) {
    if (tensor.scalar_type() == at::kBool) return tensor.to(at::kFloat);
    return tensor.is_floating_point() ? tensor : tensor.to(at::kLong);
  }

  void CheckComplete(const fs::path& file, const Shard& shard) const {
    for (size_t i = 0; i < names_.size(); ++i)
      if (!shard.inputs.contains(i))
        Fail(file, Str("lacks input ", i, " of the network: '", kInputs, names_[i], "' or '",
                       kInputs, i, "'"));
    if (!shard.targets.empty() && shard.targets.rbegin()->first + 1 != shard.targets.size())
      Fail(file, Str("targets are not numbered 0 to ", shard.targets.size() - 1));
    const int64_t count = shard.inputs.begin()->second.size(0);
    for (const auto* tensors : {&shard.inputs, &shard.targets})
      for (const auto& [place, tensor] : *tensors)
        if (tensor.size(0) != count)
          Fail(file, Str(tensors == &shard.inputs ? kInputs : kTargets, place, " has ",
                         tensor.size(0), " samples, inputs.0 has ", count));
  }

  Tensor Checked(const fs::path& file, const std::string& key, size_t place,
                 const Tensor& tensor) const {
    const InputSpec& spec = network_.graph.inputs[place];
    const bool image =
        tensor.scalar_type() == at::kByte && tensor.dim() == 4 && spec.dtype == at::kFloat;
    if (tensor.scalar_type() != spec.dtype && !(image && !config_.mean.empty()))
      Fail(file,
           Str("tensor '", key, "' is ", tensor.scalar_type(), ", the network takes ", spec.dtype),
           image ? "uint8 images need data.mean and data.std, by which they are normalised" : "");
    bool fits = tensor.dim() == static_cast<int64_t>(spec.sizes.size());
    for (size_t axis = 1; fits && axis < spec.sizes.size(); ++axis) {
      const bool open = !spec.size_expressions.empty() && !spec.size_expressions[axis].empty();
      fits = open || tensor.size(static_cast<int64_t>(axis)) == spec.sizes[axis];
    }
    if (!fits)
      Fail(file, Str("tensor '", key, "' is ", tensor.sizes(), ", the network takes ",
                     at::IntArrayRef(spec.sizes), " with the samples on axis 0"));
    return tensor;
  }

  static void CheckAgainstFirst(const Shard& first, const Shard& shard, const fs::path& first_file,
                                const fs::path& file) {
    if (first.targets.size() != shard.targets.size())
      Fail(file, Str(shard.targets.size(), " targets, ", first_file.filename().string(), " has ",
                     first.targets.size()));
    for (const auto tensors : {&Shard::inputs, &Shard::targets})
      for (const auto& [place, tensor] : first.*tensors) {
        const Tensor& other = (shard.*tensors).at(place);
        if (other.sizes().slice(1) == tensor.sizes().slice(1) &&
            other.scalar_type() == tensor.scalar_type())
          continue;
        Fail(file,
             Str(tensors == &Shard::inputs ? kInputs : kTargets, place, " is ", other.scalar_type(),
                 " ", other.sizes(), ", in ", first_file.filename().string(), " ",
                 tensor.scalar_type(), " ", tensor.sizes()));
      }
  }

  static std::vector<Tensor> Joined(const std::vector<Shard>& shards,
                                    std::map<size_t, Tensor> Shard::*tensors) {
    std::vector<Tensor> joined;
    for (const auto& [place, first] : shards.front().*tensors) {
      std::vector<Tensor> parts;
      for (const Shard& shard : shards) parts.push_back((shard.*tensors).at(place));
      joined.push_back(at::cat(parts));
    }
    return joined;
  }

  const DataConfig& config_;
  const Network& network_;
  std::vector<std::string> names_;  // of the network's inputs
};

}  // namespace

FolderParts ReadTensorShards(const DataConfig& config, const Network& network) {
  const auto folders = internal::FindSplitFolders(config.root, "safetensors shards");
  const ShardReader reader(config, network);
  FolderParts parts{reader.ReadFolder(folders.train), {}, {}};
  if (!folders.validation.empty()) parts.validation = reader.ReadFolder(folders.validation);
  if (!folders.test.empty()) parts.test = reader.ReadFolder(folders.test);
  return parts;
}

}  // namespace espalier
