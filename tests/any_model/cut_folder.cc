// cut_folder FOLDER [KEEP...]: what any_model_test.py needs of every NAME.pt2 in a folder, in one
// process.
//
// Reads NAME.pt2; writes it again unchanged as NAME.again.pt2; runs it on the inputs of
// NAME.in.safetensors ("b2.in0", "b2.in1", "b3.in0", ...); cuts it by L1 norms to half its
// multiply-accumulates (or to the least fraction of KEEP that can be reached); certifies the cut
// and writes NAME.cut.pt2 and NAME.out.safetensors with "full.b2.out0" and "cut.b2.out0". Where
// there are residual branches, it leaves some of them out too: NAME.depth.pt2. Prints one line of
// JSON for each network. A failure is in its line and stops no other network.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "criteria/criterion.h"
#include "criteria/l1_norm.h"
#include "env/base/error.h"
#include "env/cost/budget.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// "b2" -> inputs in order.
using Batches = std::map<std::string, std::vector<Tensor>>;

Batches ReadBatches(const fs::path& path) {
  Batches batches;
  for (const auto& [name, tensor] : ReadSafetensors(path).tensors) {
    const size_t dot = name.find('.');
    auto& list = batches[name.substr(0, dot)];
    list.resize(std::max(list.size(), static_cast<size_t>(std::stoul(name.substr(dot + 3))) + 1));
    list[std::stoul(name.substr(dot + 3))] = tensor;
  }
  return batches;
}

void RunInto(const Network& network, const Batches& batches, const std::string& prefix,
             TensorFile& file) {
  const at::NoGradGuard no_grad;
  const Executor executor(network.graph);
  for (const auto& [batch, inputs] : batches) {
    const auto outputs = executor.Run(executor.Bind(network.store), inputs);
    for (size_t i = 0; i < outputs.size(); ++i)
      file.tensors.emplace_back(Str(prefix, batch, ".out", i), outputs[i].contiguous());
  }
}

/// What could not follow a cut is rewritten when the Space is built; that must change nothing.
void ExpectTheSame(const Network& network, const Network& rewritten, const Batches& batches) {
  TensorFile expected, found;
  RunInto(network, batches, "", expected);
  RunInto(rewritten, batches, "", found);
  for (size_t i = 0; i < expected.tensors.size(); ++i) {
    const auto& [name, own] = expected.tensors[i];
    const double digits = own.element_size() >= 4 ? 1e-4 : 5e-2;
    const Tensor a = own.to(at::kDouble), b = found.tensors[i].second.to(at::kDouble);
    const double scale = a.numel() > 0 ? a.abs().max().item<double>() : 0;
    if (!at::allclose(a, b, 0, digits * std::max(scale, 1e-30), /*equal_nan=*/true))
      throw Error(ErrorKind::kInternal, Str("the rewritten network's ", name, " differs by ",
                                            (a - b).abs().max().item<double>()));
  }
}

Budget ReachableBudget(const CostModel& cost, const std::vector<double>& fractions,
                       ordered_json& line) {
  for (const double fraction : fractions) {
    try {
      BudgetConfig config;
      config.macs = Quantity{fraction, true};
      Budget budget(cost, config);
      line["fraction"] = fraction;
      return budget;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBudget || fraction == fractions.back()) throw;
    }
  }
  throw Error(ErrorKind::kUsage, "no fraction is given");
}

/// The same network without its first residual branch and every second one after it, and half of
/// everything else.
void CutDepth(const fs::path& file, const Network& network, const Batches& batches,
              ordered_json& line, TensorFile& outputs) {
  const Space space = BuildSpace(network, {.depth = true});
  if (space.branches().empty()) return;
  std::vector<int64_t> counts;
  for (const Group& group : space.groups()) counts.push_back(group.Keepable(group.units / 2));
  for (size_t i = 0; i < space.branches().size(); ++i)
    counts[static_cast<size_t>(space.branches()[i].group)] = i % 2 == 0 ? 0 : 1;
  const auto scores = ScoreGroups(L1Norm(L1NormConfig()), space, space.network().store, 0);
  const Selection selection = SelectTop(space, scores, counts);
  const Plan plan = MakePlan(space, selection);
  const Network cut = Cut(space.network(), plan);
  line["depth"] = {{"branches", plan.branches.size()}, {"removed", plan.removed}};
  line["depth"]["certificate"] = nlohmann::json(ToJson(Certify(space, selection, plan, cut)));
  RunInto(cut, batches, "depth.", outputs);
  WritePt2(file, cut);
  // Counted afresh from the file, not from the polynomials of the uncut network.
  const Cost expected =
      CostModel(space).Evaluate(std::vector<double>(counts.begin(), counts.end()));
  const Space again = BuildSpace(ReadPt2(file));
  const Cost found = CostModel(again).Full();
  line["depth"]["cost"] = {expected.macs, expected.params, expected.activation_bytes};
  line["depth"]["recount"] = {found.macs, found.params, found.activation_bytes};
}

void CutOne(const fs::path& path, const std::vector<double>& fractions, ordered_json& line,
            TensorFile& outputs) {
  const auto beside = [&](const char* ending) {
    return path.parent_path() / (path.stem().string() + ending);
  };
  line["stage"] = "read";
  const Network network = ReadPt2(path);
  const Batches batches = ReadBatches(beside(".in.safetensors"));
  line["stage"] = "run";
  RunInto(network, batches, "full.", outputs);
  line["stage"] = "write";
  WritePt2(beside(".again.pt2"), network);
  line["stage"] = "space";
  const Space space = BuildSpace(network);
  line["groups"] = space.groups().size();
  line["units"] = space.total_units();
  ordered_json pins = ordered_json::object();
  for (const Pin& pin : space.pins()) pins[Str(pin.parameter, '@', pin.axis)] = pin.reason;
  line["pins"] = pins;
  const CostModel cost(space);
  line["macs"] = {cost.Full().macs, cost.Full().macs};
  line["uncounted"] = cost.uncounted();
  line["stage"] = "run rewritten";
  ExpectTheSame(network, space.network(), batches);
  if (space.groups().empty()) {
    line["stage"] = "nothing to cut";
    return;
  }
  line["stage"] = "budget";
  const Budget budget = ReachableBudget(cost, fractions, line);
  const auto counts = budget.Project(Decision(space.groups().size(), 1.0));
  const auto scores = ScoreGroups(L1Norm(L1NormConfig()), space, space.network().store, 0);
  line["stage"] = "plan";
  const Selection selection = SelectTop(space, scores, counts);
  const Plan plan = MakePlan(space, selection);
  line["stage"] = "cut";
  const Network cut = Cut(space.network(), plan);
  ordered_json sizes = ordered_json::object();
  for (const auto& name : cut.store.names())
    sizes[name] = {space.network().store.Get(name).sizes().vec(),
                   cut.store.Get(name).sizes().vec()};
  line["sizes"] = sizes;
  const auto kept = KeptCounts(selection);
  line["macs"][1] = cost.Evaluate(std::vector<double>(kept.begin(), kept.end())).macs;
  line["stage"] = "certify";
  const Certificate certificate = Certify(space, selection, plan, cut);
  line["certificate"] = nlohmann::json(ToJson(certificate));
  line["stage"] = "run cut";
  RunInto(cut, batches, "cut.", outputs);
  line["stage"] = "write cut";
  WritePt2(beside(".cut.pt2"), cut);
  line["stage"] = "depth";
  CutDepth(beside(".depth.pt2"), network, batches, line, outputs);
  line["stage"] = "done";
}

int Main(const std::vector<std::string>& arguments) {
  std::vector<double> fractions;
  for (size_t i = 1; i < arguments.size(); ++i) fractions.push_back(std::stod(arguments[i]));
  if (fractions.empty()) fractions = {0.5, 0.7, 0.85, 0.95};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(arguments.at(0)))
    if (entry.path().extension() == ".pt2" && entry.path().stem().extension().empty())
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    ordered_json line = {{"name", file.stem().string()}};
    TensorFile outputs;
    const auto begin = std::chrono::steady_clock::now();
    try {
      CutOne(file, fractions, line, outputs);
    } catch (const Error& error) {
      line["error"] = {{"kind", static_cast<int>(error.kind())},
                       {"message", error.message()},
                       {"hint", error.hint()}};
    } catch (const std::exception& error) {
      line["error"] = {{"kind", -1}, {"message", error.what()}, {"hint", ""}};
    }
    line["seconds"] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    WriteSafetensors(file.parent_path() / (file.stem().string() + ".out.safetensors"), outputs);
    std::cout << line.dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int count, char** words) {
  at::set_num_threads(1);
  if (count < 2) return 2;
  return espalier::Main({words + 1, words + count});
}
