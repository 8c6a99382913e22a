#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/data/splits.h"
#include "experiments/commands/commands.h"
#include "experiments/run_folder.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

bool OnPath(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string folder;
  for (const char* c = path ? path : "";; ++c) {
    if (*c && *c != ':') {
      folder += *c;
      continue;
    }
    if (!folder.empty() && ::access((folder + "/" + program).c_str(), X_OK) == 0) return true;
    folder.clear();
    if (!*c) return false;
  }
}

/// A convolution with its gradient against the same sum written as a matrix product: catches a
/// broken LibTorch or an instruction set it should not have chosen.
std::string CheckArithmetic(at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const Tensor x = at::arange(2 * 3 * 8 * 8, options).reshape({2, 3, 8, 8}).mul(0.37).sin();
  const Tensor w = at::arange(4 * 3 * 9, options).reshape({4, 3, 3, 3}).mul(0.61).cos();
  const Tensor direct = at::conv2d(x, w, {}, 1, 1);
  const Tensor columns = at::im2col(x, {3, 3}, {1, 1}, {1, 1}, {1, 1});  // [2, 27, 64]
  const Tensor product = at::matmul(w.reshape({4, 27}), columns).reshape({2, 4, 8, 8});
  const double error = (direct - product).abs().max().item<double>();
  return error < 1e-3 ? "ok" : Str("convolution is off by ", error);
}

ordered_json Inspect() {
  ordered_json facts = MachineFacts("cpu");
  facts.erase("device");
  facts["cpu_capability"] = at::get_cpu_capability();
  facts["memory_gib"] = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
                        static_cast<double>(::sysconf(_SC_PAGE_SIZE)) / (1 << 30);
  struct statvfs disk {};
  if (::statvfs(".", &disk) == 0)
    facts["disk_free_gib"] =
        static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize) / (1 << 30);
  facts["arithmetic_cpu"] = CheckArithmetic(at::kCPU);
  facts["cuda"] = at::hasCUDA() ? "available" : "not available";
  if (at::hasCUDA()) facts["arithmetic_cuda"] = CheckArithmetic(at::kCUDA);
  facts["graphviz"] = OnPath("dot") ? "found" : "not found (inspect --graph writes .dot only)";
  ordered_json data = ordered_json::object();
  for (const std::string name : {"cifar10", "cifar100", "mnist"}) {
    DataConfig config;
    config.name = name;
    config.validation = 0;
    try {
      const Splits splits = Splits::Load(config);
      data[name] =
          Str(splits.train().count(), " + ", splits.test().count(), " images in ", config.root);
    } catch (const Error& error) {
      data[name] = error.message().substr(0, error.message().find('\n'));
    }
  }
  facts["data"] = data;
  return facts;
}

int RunDoctor(const Arguments& arguments) {
  const ordered_json facts = Inspect();
  if (arguments.json()) {
    PrintJson(facts);
  } else {
    TextTable table({});
    for (const auto& [name, value] : facts.items()) {
      if (value.is_object())
        for (const auto& [inner, text] : value.items())
          table.Add({name + " " + inner, text.get<std::string>()});
      else if (value.is_number_float())
        table.Add({name, Fixed(value.get<double>(), 1)});
      else
        table.Add({name, (value.is_string() ? value.get<std::string>() : value.dump())});
    }
    Print(table.Text());
  }
  for (const char* check : {"arithmetic_cpu", "arithmetic_cuda"})
    if (facts.contains(check) && facts[check] != "ok")
      throw Error(ErrorKind::kDevice, Str(check, ": ", facts[check].get<std::string>()),
                  "reinstall LibTorch (scripts/setup)");
  return 0;
}

}  // namespace

const Command kDoctorCommand = {
    .name = "doctor",
    .usage = "",
    .summary = "what this machine can do",
    .detail =
        "Versions, processor, memory, devices, data sets found, and a check of the arithmetic.",
    .examples = {"espalier doctor", "espalier doctor --json"},
    .run = RunDoctor};

}  // namespace espalier
