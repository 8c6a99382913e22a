#include "tests/env/graph/io_python.h"

#include <ATen/ATen.h>

#include <cstdlib>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"

namespace espalier {

std::string RunCheck(const std::string& python, const TempFolder& folder, const std::string& args) {
  const std::string log = (folder / "check.log").string();
  const std::string command = Str(python, " tests/e2e/check_pt2.py ", args, " > ", log, " 2>&1");
  const int status = std::system(command.c_str());
  return status == 0 ? "" : Str("status ", status, "\n", ReadFile(log));
}

std::string CheckProgram(const std::string& python, const TempFolder& folder,
                         const Network& network) {
  WritePt2(folder / "m.pt2", network);
  TensorFile expected;
  const at::NoGradGuard no_grad;
  const Executor executor(network.graph);
  for (const int64_t batch : {2, 5}) {
    std::vector<Tensor> inputs = SampleInputs(network, batch);
    for (Tensor& input : inputs)
      if (input.is_floating_point()) input.normal_();
    const auto outputs = executor.Run(executor.Bind(network.store), inputs);
    for (size_t i = 0; i < inputs.size(); ++i)
      expected.tensors.emplace_back(Str("batch", batch, ".in", i), inputs[i]);
    for (size_t i = 0; i < outputs.size(); ++i)
      expected.tensors.emplace_back(Str("batch", batch, ".out", i), outputs[i]);
  }
  WriteSafetensors(folder / "e.safetensors", expected);
  return RunCheck(
      python, folder,
      Str("program ", (folder / "m.pt2").string(), " ", (folder / "e.safetensors").string()));
}

}  // namespace espalier
