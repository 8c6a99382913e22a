#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "env/base/error.h"
#include "env/base/tensor.h"
#include "env/graph/zip_file.h"

namespace espalier::pt2 {

/// The zip side of a torch.export archive. Treats it as hostile (ZipFile); pickled entries are read
/// as plain data (torch_pickle.h).
/// Errors   kIo when there is no such file; else kModel naming the file and the entry.
class Archive {
 public:
  explicit Archive(const std::filesystem::path& path) : path_(path), zip_(path) {}
  bool Has(const std::string& entry) const { return zip_.Has(entry); }
  const std::vector<std::string>& entries() const { return zip_.names(); }  ///< without the root
  std::string Text(const std::string& entry);
  Tensor Bytes(const std::string& entry);  ///< [size], uint8
  /// Walks the program of a pickled entry, whose storages are the records in the folder of its
  /// name, and reads none. Errors: kModel when anything in it is not as it claims (torch_pickle.h).
  void CheckPickle(const std::string& entry, std::string program);

  template <typename... Parts>
  [[noreturn]] void Fail(const std::string& entry, const Parts&... parts) const {
    throw Error(ErrorKind::kModel, Str(Place(entry), ": ", parts...));
  }
  std::string Place(const std::string& entry) const;  ///< "'net.pt2', entry models/model.json"
  bool Named(const Error& error) const;               ///< the message begins with the file's name

 private:
  std::filesystem::path path_;
  ZipFile zip_;
};

/// One tensor of a weights or constants config.
struct StoredTensor {
  std::string name;
  Tensor tensor;
  bool is_parameter = false;
  std::string tied_to;  ///< an earlier name with the very same storage, or ""
};

/// All tensors a config entry lists, in its order. Sizes, strides, offsets and dtypes are checked
/// against the length of the raw record; several names of one record share its memory.
std::vector<StoredTensor> ReadTensors(Archive& archive, const std::string& config_entry,
                                      const std::string& folder);

/// A whole state dict pickled into one entry, as torch 2.8 wrote it.
std::vector<StoredTensor> ReadStateDict(Archive& archive, const std::string& entry);

}  // namespace espalier::pt2
