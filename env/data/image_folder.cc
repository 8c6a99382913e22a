#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "env/base/error.h"
#include "env/data/folders.h"
#include "env/data/image_file.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string>& Endings() {
  static const std::vector<std::string> endings = {".png", ".jpg", ".jpeg"};
  return endings;
}

struct Frame {
  int64_t channels, height, width;
  double crop;  // share of the covering image's side that stays
};

Frame FrameOf(const Network& network, double crop) {
  const auto& inputs = network.graph.inputs;
  const auto sizes = inputs.size() == 1 ? inputs.front().sizes : std::vector<int64_t>{};
  if (sizes.size() != 4 || (sizes[1] != 1 && sizes[1] != 3))
    throw Error(ErrorKind::kModel,
                Str("data set image_folder: network '", network.name, "' has ", inputs.size(),
                    " inputs, the first ", at::IntArrayRef(sizes),
                    "; one is needed, [batch, 1 or 3, height, width]"),
                "write its inputs to safetensors shards: data.name = \"tensors\"");
  return {sizes[1], sizes[2], sizes[3], crop};
}

/// [C, h, w] -> [C, H, W] uint8.
Tensor Fit(const Tensor& image, const Frame& frame) {
  const auto side = [&](int64_t axis) { return static_cast<double>(image.size(axis)); };
  const double scale = std::max(static_cast<double>(frame.height) / frame.crop / side(1),
                                static_cast<double>(frame.width) / frame.crop / side(2));
  const int64_t height = std::max(frame.height, std::lround(side(1) * scale));
  const int64_t width = std::max(frame.width, std::lround(side(2) * scale));
  Tensor fitted = image;
  if (height != image.size(1) || width != image.size(2))
    fitted = at::_upsample_bilinear2d_aa(image.unsqueeze(0).to(at::kFloat), {height, width},
                                         /*align_corners=*/false)
                 .squeeze(0)
                 .round_()
                 .clamp_(0, 255)
                 .to(at::kByte);
  return fitted.narrow(1, (height - frame.height) / 2, frame.height)
      .narrow(2, (width - frame.width) / 2, frame.width);
}

struct Listing {
  std::vector<fs::path> files;
  std::vector<int64_t> labels;  // empty when the folder has no classes
};

/// classes: of the training folder, filled by the first call. Empty = no labels.
Listing List(const fs::path& folder, std::vector<std::string>& classes, bool first) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory()) found.push_back(entry.path().filename().string());
  std::sort(found.begin(), found.end());
  if (first) classes = found;
  Listing listing{internal::FilesEndingIn(folder, Endings()), {}};
  if (!listing.files.empty() && !found.empty())
    throw Error(ErrorKind::kData,
                Str("image folder '", folder.string(), "': images lie beside the folder '",
                    found.front(), "'"),
                "either every class has a folder, or there are no folders and no labels");
  for (const std::string& name : found) {
    const auto known = std::find(classes.begin(), classes.end(), name);
    if (known == classes.end())
      throw Error(ErrorKind::kData,
                  Str("image folder '", folder.string(), "': class '", name,
                      "' is not among the training images"),
                  SuggestName(name, classes));
    for (const fs::path& file : internal::FilesEndingIn(folder / name, Endings())) {
      listing.files.push_back(file);
      listing.labels.push_back(known - classes.begin());
    }
  }
  if (listing.files.empty())
    throw Error(ErrorKind::kData, Str("image folder '", folder.string(),
                                      "': no .png, .jpg or .jpeg, neither here nor in folders of "
                                      "classes"));
  if (classes.empty() != listing.labels.empty())
    throw Error(ErrorKind::kData, Str("image folder '", folder.string(),
                                      "': labels are missing here or in the training images"));
  return listing;
}

Dataset Read(const Listing& listing, const Frame& frame, const DataConfig& config) {
  const auto count = static_cast<int64_t>(listing.files.size());
  const Tensor images = at::empty({count, frame.channels, frame.height, frame.width}, at::kByte);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    const at::NoGradGuard no_grad;  // a worker has its own
    for (int64_t i = begin; i < end; ++i)
      images[i].copy_(Fit(ReadImage(listing.files[static_cast<size_t>(i)], frame.channels), frame));
  });
  Dataset samples{.inputs = {images}, .targets = {}};
  if (!listing.labels.empty()) samples.targets = {at::tensor(listing.labels, at::kLong)};
  samples.mean = config.mean;
  samples.std = config.std;
  samples.crop_flip = config.augmentation == "crop_flip";
  return samples;
}

}  // namespace

FolderParts ReadImageFolder(const DataConfig& config, const Network& network) {
  const Frame frame = FrameOf(network, config.crop);
  const auto folders = internal::FindSplitFolders(config.root, "images, a folder a class");
  std::vector<std::string> classes;
  FolderParts parts{Read(List(folders.train, classes, /*first=*/true), frame, config), {}, {}};
  const auto read = [&](const fs::path& folder, std::optional<Dataset>& part) {
    if (!folder.empty()) part = Read(List(folder, classes, /*first=*/false), frame, config);
  };
  read(folders.validation, parts.validation);
  read(folders.test, parts.test);
  return parts;
}

}  // namespace espalier
