#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "env/data/dataset.h"
#include "env/data/splits.h"
#include "env/graph/network.h"

namespace espalier {

/// A data set in a folder as it was found: its training samples, and the splits that have folders
/// of their own (root/train, root/validation or root/val, root/test); without those, all of it.
struct FolderParts {
  Dataset train;
  std::optional<Dataset> validation, test;
};

/// Images in a folder a class (root/CLASS/NAME.png, .jpg, .jpeg; classes in alphabetical order), or
/// without labels (root/NAME.png). Each is resized, with antialiasing, until it just covers the
/// network's input divided by config.crop, and cut to the input's size around its middle. Kept in
/// memory as bytes. Mean and std are those of the config.
///
/// Errors   kData naming the file or folder; kModel when the network does not take images.
FolderParts ReadImageFolder(const DataConfig& config, const Network& network);

/// safetensors shards (root/NAME.safetensors, in alphabetical order) whose tensors are named
/// inputs.NAME or inputs.0, inputs.1 ... as the network's inputs, and targets.0, targets.1 ... (or
/// none), [samples, ...] each. Whole-numbered targets become int64.
///
/// Errors   kData naming shard and tensor: unknown or missing names (with the nearest), numbers of
///          samples that differ, shapes and types that the network does not take.
FolderParts ReadTensorShards(const DataConfig& config, const Network& network);

namespace internal {

/// The folder of each split under `root`: train, validation, test; the first is `root` itself when
/// there is none for training. Empty = there is none. Errors: kData when root is no folder.
struct SplitFolders {
  std::filesystem::path train, validation, test;
};
SplitFolders FindSplitFolders(const std::filesystem::path& root, const std::string& holds);

/// Regular files with one of these endings (lower case), sorted by name.
std::vector<std::filesystem::path> FilesEndingIn(const std::filesystem::path& folder,
                                                 const std::vector<std::string>& endings);

}  // namespace internal
}  // namespace espalier
