#include "tests/e2e/cli_testing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <png.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/rng.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

std::string Program() {
  const char* program = std::getenv("ESPALIER_BINARY");
  ESPALIER_CHECK(program && *program, "ESPALIER_BINARY is not set");
  return program;
}

int ExitOf(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

pid_t Start(const std::string& program, const std::vector<std::string>& arguments,
            const std::filesystem::path& out, const std::filesystem::path& err,
            const std::map<std::string, std::string>& environment = {}) {
  std::vector<char*> words = {const_cast<char*>(program.c_str())};
  for (const auto& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(out.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644), 1);
    ::dup2(::open(err.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644), 2);
    ::setenv("ESPALIER_THREADS", "1", 1);
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::execvp(program.c_str(), words.data());
    ::_exit(127);
  }
  return child;
}

void WriteRows(const std::filesystem::path& file, const std::vector<int64_t>& labels, Rng& rng) {
  std::string pixels;
  for (const int64_t label : labels) {
    const double phase = rng.Uniform(0, 1.5);
    for (int y = 0; y < 32; ++y)
      for (int x = 0; x < 32; ++x)
        for (int c = 0; c < 3; ++c) {
          const auto k = static_cast<double>(label);
          const double wave = std::sin(phase + 0.21 * (k + 1) * x * (c == 0 ? 1 : 0.4) +
                                       0.13 * (10 - k) * y * (c == 1 ? 1 : 0.3) + 2 * c * k);
          const double value = 128 + 60 * wave + 25 * rng.Normal();
          pixels +=
              static_cast<char>(static_cast<unsigned char>(std::fmin(255, std::fmax(0, value))));
        }
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = 32 * 32;
  image.height = static_cast<png_uint_32>(labels.size());
  image.format = PNG_FORMAT_RGB;
  ESPALIER_CHECK(png_image_write_to_file(&image, file.c_str(), 0, pixels.data(), 0, nullptr));
}

}  // namespace

nlohmann::ordered_json CliOutcome::Json() const {
  const auto end = out.find_last_not_of('\n');
  if (end == std::string::npos) return nullptr;
  const auto start = out.rfind('\n', end);
  return nlohmann::ordered_json::parse(
      out.substr(start == std::string::npos ? 0 : start + 1, end - start), nullptr, false);
}

Espalier::Espalier(const std::vector<std::string>& arguments,
                   const std::map<std::string, std::string>& environment) {
  static std::atomic<int> count = 0;
  log_ = std::filesystem::path(testing::TempDir()) / Str("espalier_cli_", getpid(), '_', count++);
  process_ =
      Start(Program(), arguments, log_.string() + ".out", log_.string() + ".err", environment);
}

Espalier::~Espalier() {
  if (process_ > 0) {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  for (const char* ending : {".out", ".err"}) std::filesystem::remove(log_.string() + ending);
}

bool Espalier::SignalWhen(const std::function<bool()>& ready, int signal) {
  while (!ready()) {
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT);
    if (info.si_pid != 0) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return ::kill(process_, signal) == 0;
}

CliOutcome Espalier::Wait() {
  int status = 0;
  ::waitpid(process_, &status, 0);
  process_ = -1;
  return {ExitOf(status), ReadFile(log_.string() + ".out"), ReadFile(log_.string() + ".err")};
}

CliOutcome RunEspalier(const std::vector<std::string>& arguments,
                       const std::map<std::string, std::string>& environment) {
  return Espalier(arguments, environment).Wait();
}

void MakeFakeCifar10(const std::filesystem::path& root, int64_t train) {
  const auto folder = root / "cifar10";
  std::filesystem::create_directories(folder);
  Rng rng(7);
  nlohmann::json train_labels = nlohmann::json::array(), test_labels = train_labels;
  const auto make = [&](const std::string& name, int64_t count, nlohmann::json& all) {
    std::vector<int64_t> labels;
    for (int64_t i = 0; i < count; ++i) labels.push_back(static_cast<int64_t>(rng.Index(10)));
    for (const int64_t label : labels) all.push_back(label);
    WriteRows(folder / name, labels, rng);
  };
  for (int file = 1; file <= 5; ++file)
    make(Str("data_batch_", file, ".png"), train / 5, train_labels);
  make("test_batch.png", 100, test_labels);
  WriteFileAtomic(folder / "train_lables.json", train_labels.dump());
  WriteFileAtomic(folder / "test_lables.json", test_labels.dump());
}

const TinyProject& Tiny() {
  static const TempFolder temp("tiny");  // removed when the process ends
  static const TinyProject project = [] {
    TinyProject made;
    made.folder = temp.path();
    made.data = made.folder / "data";
    MakeFakeCifar10(made.data, 500);
    const std::string data =
        Str("[data]\nname = \"cifar10\"\nroot = \"", made.data.string(), "\"\nvalidation = 100\n");
    WriteFileAtomic(made.folder / "base.toml",
                    Str("[model]\nname = \"resnet20\"\n", data,
                        "[train]\nepochs = 4\nbatch_size = 32\nlr = 0.05\nprecision = \"fp32\"\n"
                        "[run]\nseed = 3\n"));
    const auto trained = RunEspalier({"train", (made.folder / "base.toml").string(), "--out",
                                      (made.folder / "base").string(), "--json"});
    ESPALIER_CHECK(trained.exit_code == 0, trained.err);
    made.weights = made.folder / "base/weights.safetensors";
    made.config = made.folder / "prune.toml";
    WriteFileAtomic(
        made.config,
        Str("[model]\nname = \"resnet20\"\nweights = \"base/weights.safetensors\"\n", data,
            "[budget]\nmacs = 0.6\nconvention = \"autobot\"\n[space]\ndecouple_residuals = true\n"
            "[strategy]\nname = \"autobot\"\nbatches = 12\nbatch_size = 16\ncheckpoint_every = 3\n"
            "[finetune]\nepochs = 2\nbatch_size = 32\nlr = 0.02\nprecision = \"fp32\"\n"
            "[controls]\nstrategies = [\"uniform\"]\n[run]\nseed = 5\ndevice = \"cpu\"\n"));
    return made;
  }();
  return project;
}

std::string RunPython(const std::vector<std::string>& arguments) {
  const TempFolder temp("python");
  const auto log = temp / "log";
  const pid_t child = Start(std::getenv("ESPALIER_PYTHON"), arguments, log, temp / "err");
  int status = 0;
  ::waitpid(child, &status, 0);
  if (ExitOf(status) == 0) return "";
  return Str("exit code ", ExitOf(status), "\n", ReadFile(log), ReadFile(temp / "err"));
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace espalier
