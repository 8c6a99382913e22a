#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "env/graph/tensor_loader.h"

namespace espalier {

/// safetensors: name -> tensor, plus the __metadata__ strings. Readers treat files as hostile:
/// header length, offsets, overlaps, shapes and dtypes are checked before use.
/// Errors   kModel naming file, tensor and byte offset. Source: huggingface/safetensors format.
struct TensorFile {
  std::vector<std::pair<std::string, Tensor>> tensors;  ///< file order
  std::map<std::string, std::string> metadata;
};
TensorFile ReadSafetensors(const std::filesystem::path& path);
/// Atomic. Writers take what they write from `load`, one tensor at a time, where it is given.
void WriteSafetensors(const std::filesystem::path& path, const TensorFile& file,
                      const TensorLoader& load = {});

/// A dict of tensors that Python's torch.load(weights_only=True) reads; atomic.
void WriteStateDict(const std::filesystem::path& path, const ParameterStore& store,
                    const TensorLoader& load = {});

/// All of a network's stored tensors (tied ones once) as safetensors / from safetensors.
/// LoadWeights checks the set of names and every shape: kModel lists missing, unexpected and
/// misshapen names and says "weights of another network?". num_batches_tracked may be absent.
void SaveWeights(const std::filesystem::path& path, const ParameterStore& store,
                 std::map<std::string, std::string> metadata = {}, const TensorLoader& load = {});
void LoadWeights(const std::filesystem::path& path, ParameterStore& store);

/// torch.export archive (.pt2) written by torch 2.9-2.14; see docs/formats.md.
/// Reader: raw and pickled weights, tied weights, constants, open sizes, several and nested inputs
/// and outputs; the archive's sample inputs come along. What is not understood is a kModel error
/// naming op, module path and archive entry. No pickled code is run.
Network ReadPt2(const std::filesystem::path& path);
/// Writer: a file that torch.export.load opens, runs, unflattens and differentiates. A network that
/// was read keeps what its archive said (metadata, open sizes, guards, nesting) where it still
/// holds: read and written unchanged, its JSON is equal. Others get a dynamic batch.
void WritePt2(const std::filesystem::path& path, const Network& network,
              const TensorLoader& load = {});

/// MODEL as the command line writes it: FILE.pt2, or NAME[:weights.safetensors] of a built-in.
/// Declared in env/models/models.h as LoadModel, which sits above this header.

}  // namespace espalier
