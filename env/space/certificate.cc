#include "env/space/certificate.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/rng.h"

namespace espalier {
namespace {

constexpr double kToleranceFloat64 = 1e-10;
constexpr double kLeastControl = 1e-2;  // relative; below it the masks hardly matter

at::Generator Stream(uint64_t seed, std::string_view purpose) {
  return at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed, 0, purpose));
}

/// Random inputs of the recorded shapes; integers stay zero (always a legal index).
std::vector<Tensor> RandomInputs(const Network& network, int64_t batch, uint64_t seed,
                                 at::ScalarType dtype) {
  at::Generator generator = Stream(seed, Str("certificate input ", batch));
  std::vector<Tensor> inputs = SampleInputs(network, batch);
  for (Tensor& input : inputs)
    if (input.is_floating_point())
      input = at::randn(input.sizes(), generator, at::TensorOptions(at::kFloat)).to(dtype);
  return inputs;
}

/// The same weights in double, with batch-norm statistics and affine parameters drawn at random, so
/// that a leaked channel cannot hide behind a zero mean.
ParameterStore Disturbed(const Network& network, uint64_t seed) {
  ParameterStore store = network.store.Clone();
  for (const std::string& name : store.CanonicalNames())
    if (store.Get(name).is_floating_point()) store.Set(name, store.Get(name).to(at::kDouble));
  at::Generator generator = Stream(seed, "certificate statistics");
  for (const Op& op : network.graph.ops) {
    if (op.handle.operator_name().name != "aten::batch_norm") continue;
    const auto draw = [&](const char* argument, double low, double high) {
      const ValueId id = op.ValueArg(argument);
      if (id == kNoValue) return;
      const Tensor tensor = store.Get(network.graph.values[static_cast<size_t>(id)].target);
      tensor.uniform_(low, high, generator);
    };
    draw("weight", 0.5, 1.5);  // depgraph: gamma, var ~ U(.5, 1.5), mean and beta of order 1
    draw("bias", -1.5, 1.5);
    draw("running_mean", -1.5, 1.5);
    draw("running_var", 0.5, 1.5);
  }
  return store;
}

/// Runs one network on several stores with the same gates.
class Runner {
 public:
  explicit Runner(const Network& network) : executor_(network.graph) {}
  Tensor Run(const ParameterStore& store, const std::vector<Tensor>& inputs,
             const std::vector<Gate>& gates = {}) const {
    std::vector<Tensor> outputs = executor_.Run(executor_.Bind(store), inputs, {.gates = gates});
    for (Tensor& output : outputs) output = output.reshape({-1}).to(at::kDouble);
    return at::cat(outputs);
  }

 private:
  Executor executor_;
};

double MaxAbs(const Tensor& tensor) {
  return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>();
}

Tensor MaskTensor(const Space& space, const Selection& selection, at::ScalarType dtype) {
  const std::vector<uint8_t> mask = UnitMask(space, selection);
  std::vector<int64_t> values(mask.begin(), mask.end());
  return at::tensor(values, at::kLong).to(dtype);
}

/// Masked against pruned, in both precisions and at two batch sizes; the control beside it.
void CompareMaskedAndPruned(const Space& space, const Selection& selection, const Plan& plan,
                            const Network& pruned, uint64_t seed, Certificate& certificate) {
  const Network& source = space.network();
  const Runner masked(source), cut(pruned);
  const auto gates = ReadGates(space, MaskTensor(space, selection, at::kFloat));
  const auto gates64 = ReadGates(space, MaskTensor(space, selection, at::kDouble));
  const ParameterStore disturbed = Disturbed(source, seed);
  const ParameterStore disturbed_cut = SliceStore(disturbed, plan);
  certificate.control = 1e300;
  for (const int64_t batch : {1, 3}) {
    const auto x = RandomInputs(source, batch, seed, at::kFloat);
    const Tensor m = masked.Run(source.store, x, gates);
    const double error = MaxAbs(cut.Run(pruned.store, x) - m);
    certificate.max_abs_error = std::max(certificate.max_abs_error, error);
    certificate.max_rel_error = std::max(certificate.max_rel_error, error / MaxAbs(m));
    const auto x64 = RandomInputs(source, batch, seed, at::kDouble);
    const Tensor m64 = masked.Run(disturbed, x64, gates64);
    const double scale = MaxAbs(m64);
    certificate.max_rel_error_f64 =
        std::max(certificate.max_rel_error_f64, MaxAbs(cut.Run(disturbed_cut, x64) - m64) / scale);
    certificate.control =
        std::min(certificate.control, MaxAbs(masked.Run(disturbed, x64) - m64) / scale);
  }
}

/// Producer rows of the chosen units, overwritten with noise of three times the weight's deviation.
ParameterStore NoisyProducers(const Space& space, const ParameterStore& store,
                              const std::vector<uint8_t>& chosen, uint64_t seed) {
  ParameterStore noisy = store.Clone();
  at::Generator generator = Stream(seed, "certificate noise");
  for (size_t g = 0; g < space.groups().size(); ++g)
    for (const Member& member : space.groups()[g].members) {
      if (member.role != MemberRole::kProducer) continue;
      const Tensor tensor = noisy.Get(member.parameter);
      const double scale = 3 * (tensor.numel() > 1 ? tensor.std().item<double>() : 1.0);
      std::vector<int64_t> rows;
      for (int64_t unit = 0; unit < space.groups()[g].units; ++unit)
        if (chosen[static_cast<size_t>(space.unit_offset(g) + unit)])
          for (int64_t k = 0; k < member.per_unit; ++k)
            rows.push_back(member.indices[static_cast<size_t>(unit * member.per_unit + k)]);
      if (rows.empty()) continue;
      const Tensor index = at::tensor(rows, at::kLong);
      const Tensor noise =
          at::randn(tensor.index_select(member.axis, index).sizes(), generator, tensor.options()) *
          scale;
      tensor.index_copy_(member.axis, index, noise);
    }
  return noisy;
}

void CheckInvariance(const Space& space, uint64_t seed, Certificate& certificate) {
  const Network& source = space.network();
  Rng rng(seed, 0, "certificate half");
  std::vector<uint8_t> chosen(static_cast<size_t>(space.total_units()), 0);
  for (size_t g = 0; g < space.groups().size(); ++g) {
    const auto order = rng.Permutation(space.groups()[g].units);
    for (size_t i = 0; i < order.size() / 2; ++i) {
      chosen[static_cast<size_t>(space.unit_offset(g) + order[i])] = 1;
      ++certificate.invariance_units;
    }
  }
  std::vector<int64_t> factors;
  for (const uint8_t taken : chosen) factors.push_back(!taken);
  const auto gates = ReadGates(space, at::tensor(factors, at::kLong).to(at::kFloat));
  const Runner runner(source);
  const auto x = RandomInputs(source, 2, seed, at::kFloat);
  const Tensor before = runner.Run(source.store, x, gates);
  const Tensor after = runner.Run(NoisyProducers(space, source.store, chosen, seed), x, gates);
  certificate.invariance_exact = at::equal(before, after);
}

/// The first op whose kept outputs differ between masked and pruned network.
std::string FirstDifference(const Space& space, const Selection& selection, const Network& pruned,
                            uint64_t seed) {
  const Network& source = space.network();
  const std::vector<uint8_t> mask = UnitMask(space, selection);
  const auto gates = ReadGates(space, MaskTensor(space, selection, at::kFloat));
  const auto x = RandomInputs(source, 1, seed, at::kFloat);
  std::vector<Tensor> expected(source.graph.values.size()), found(source.graph.values.size());
  const auto record = [&x](const Network& network, const std::vector<Gate>& attached,
                           std::vector<Tensor>& values) {
    std::vector<Tap> taps;
    for (size_t id = 0; id < values.size(); ++id)
      taps.push_back(
          {static_cast<ValueId>(id), [&values, id](const Tensor& t) { values[id] = t.clone(); }});
    const Executor executor(network.graph);
    executor.Run(executor.Bind(network.store), x, {.gates = attached, .taps = taps});
  };
  record(source, gates, expected);
  record(pruned, {}, found);
  for (const Op& op : source.graph.ops) {
    const auto id = static_cast<size_t>(op.outputs.front());
    Tensor kept = expected[id];
    for (size_t axis = 0; axis < space.values()[id].unit.size(); ++axis) {
      const auto& units = space.values()[id].unit[axis];
      if (units.empty()) continue;
      std::vector<int64_t> index;
      for (size_t i = 0; i < units.size(); ++i)
        if (units[i] < 0 || mask[static_cast<size_t>(units[i])])
          index.push_back(static_cast<int64_t>(i));
      kept = kept.index_select(static_cast<int64_t>(axis), at::tensor(index, at::kLong));
    }
    const std::string where =
        Str("op '", op.name, "' (", op.target(), " at '", op.module_path, "')");
    if (kept.sizes() != found[id].sizes())
      return Str(where, ": pruned shape ", found[id].sizes(), ", masked ", kept.sizes());
    const double error = MaxAbs((kept - found[id]).to(at::kDouble));
    if (!(error <= 1e-4 * std::max(1e-30, MaxAbs(kept.to(at::kDouble)))))
      return Str(where, ": differs by ", error);
  }
  return "the outputs differ, but no single op stands out";
}

}  // namespace

Certificate Certify(const Space& space, const Selection& selection, const Plan& plan,
                    const Network& pruned, uint64_t seed) {
  const at::NoGradGuard no_grad;
  Certificate certificate;
  certificate.source_sha256 = space.network().WeightsHash();
  certificate.pruned_sha256 = pruned.WeightsHash();
  certificate.plan_sha256 = Sha256Hex(ToJson(plan).dump());
  CompareMaskedAndPruned(space, selection, plan, pruned, seed, certificate);
  CheckInvariance(space, seed, certificate);
  const bool cuts_nothing = plan.kept.empty();
  const bool equal = certificate.max_rel_error <= certificate.tolerance &&
                     certificate.max_rel_error_f64 <= kToleranceFloat64;
  certificate.passed = equal && certificate.invariance_exact &&
                       (cuts_nothing || certificate.control >= kLeastControl);
  if (certificate.passed) return certificate;
  if (!equal)
    certificate.failure = FirstDifference(space, selection, pruned, seed);
  else if (!certificate.invariance_exact)
    certificate.failure = "noise in removed producers reaches the output";
  else
    certificate.failure = Str("the removed units hardly matter (control ", certificate.control,
                              "): equality proves nothing");
  return certificate;
}

nlohmann::json ToJson(const Certificate& c) {
  return {{"format", "espalier-certificate"},
          {"version", 1},
          {"passed", c.passed},
          {"max_abs_error", c.max_abs_error},
          {"max_rel_error", c.max_rel_error},
          {"tolerance", c.tolerance},
          {"max_rel_error_f64", c.max_rel_error_f64},
          {"tolerance_f64", kToleranceFloat64},
          {"invariance_exact", c.invariance_exact},
          {"invariance_units", c.invariance_units},
          {"control", c.control},
          {"failure", c.failure},
          {"source_sha256", c.source_sha256},
          {"pruned_sha256", c.pruned_sha256},
          {"plan_sha256", c.plan_sha256}};
}

Certificate CertificateFromJson(const nlohmann::json& json) {
  try {
    Certificate c;
    if (json.at("format") != "espalier-certificate" || json.at("version") != 1)
      throw Error(ErrorKind::kModel, "certificate: not an espalier-certificate of version 1");
    json.at("passed").get_to(c.passed);
    json.at("max_abs_error").get_to(c.max_abs_error);
    json.at("max_rel_error").get_to(c.max_rel_error);
    json.at("tolerance").get_to(c.tolerance);
    json.at("max_rel_error_f64").get_to(c.max_rel_error_f64);
    json.at("invariance_exact").get_to(c.invariance_exact);
    json.at("invariance_units").get_to(c.invariance_units);
    json.at("control").get_to(c.control);
    json.at("failure").get_to(c.failure);
    json.at("source_sha256").get_to(c.source_sha256);
    json.at("pruned_sha256").get_to(c.pruned_sha256);
    json.at("plan_sha256").get_to(c.plan_sha256);
    return c;
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::kModel, Str("certificate: ", error.what()));
  }
}

}  // namespace espalier
