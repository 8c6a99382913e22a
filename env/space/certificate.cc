#include "env/space/certificate.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/rng.h"
#include "env/graph/checked_json.h"
#include "env/space/masked_reference.h"

namespace espalier {
namespace {

constexpr double kToleranceFloat64 = 1e-10;
constexpr double kLeastControl = 1e-2;  // relative; below it the masks hardly matter

double MaxAbs(const Tensor& tensor) {
  return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>();
}

/// Raises `worst` to `error`; NaN, which compares as no error at all, is the largest there is.
void Raise(double& worst, double error) {
  worst = std::isnan(error) ? std::numeric_limits<double>::max() : std::max(worst, error);
}

double Relative(double error, double scale) { return error == 0 ? 0 : error / scale; }

at::Generator Stream(uint64_t seed, std::string_view purpose) {
  return at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed, 0, purpose));
}

/// Which precision a network is run in: its own, or float64 throughout.
enum class Width { kOwn, kDouble };

/// The type of the first floating parameter, which gates have to share.
at::ScalarType OwnType(const Network& network) {
  for (const std::string& name : network.store.CanonicalNames())
    if (network.store.Get(name).is_floating_point()) return network.store.Get(name).scalar_type();
  return at::kFloat;
}

/// Random inputs of the recorded shapes; integers stay as sampled (always legal indices).
std::vector<Tensor> RandomInputs(const Network& network, int64_t batch, uint64_t seed,
                                 Width width) {
  at::Generator generator = Stream(seed, Str("certificate input ", batch));
  std::vector<Tensor> inputs = SampleInputs(network, batch);
  for (Tensor& input : inputs)
    if (input.is_floating_point())
      input = at::randn(input.sizes(), generator, at::TensorOptions(at::kFloat))
                  .to(width == Width::kDouble ? at::kDouble : input.scalar_type());
  return inputs;
}

/// Explicit casts and constants of floating types as float64, for a run in double precision; what
/// only asserts a type asserts nothing.
Graph Widened(Graph graph) {
  static const std::set<std::string> kMakesFloats = {"aten::zeros", "aten::ones", "aten::empty"};
  for (Op& op : graph.ops)
    for (size_t a = 0; a < op.args.size(); ++a) {
      auto* constant = std::get_if<c10::IValue>(&op.args[a]);
      if (constant && op.handle.operator_name().name == "aten::_assert_tensor_metadata")
        *constant = c10::IValue();
      if (!constant || op.handle.schema().arguments()[a].name() != "dtype") continue;
      const bool by_default =
          constant->isNone() && kMakesFloats.contains(op.handle.operator_name().name);
      if (by_default ||
          (constant->isInt() && at::isFloatingType(static_cast<at::ScalarType>(constant->toInt()))))
        *constant = c10::IValue(static_cast<int64_t>(at::kDouble));
    }
  return graph;
}

/// The same weights in double, with normalisation parameters drawn at random, so that a leaked
/// channel cannot hide behind a zero mean, and multipliers close to zero (layer scale) brought to
/// order 1.
ParameterStore Disturbed(const Network& network, const ParameterStore& from, uint64_t seed) {
  ParameterStore store = from.Clone();
  for (const std::string& name : store.CanonicalNames())
    if (store.Get(name).is_floating_point()) store.Set(name, store.Get(name).to(at::kDouble));
  at::Generator generator = Stream(seed, "certificate statistics");
  for (const Op& op : network.graph.ops) {
    const std::string& name = op.handle.operator_name().name;
    const auto draw = [&](const char* argument, double low, double high) {
      const ValueId id = op.ArgIndex(argument) < 0 ? kNoValue : op.ValueArg(argument);
      if (id == kNoValue) return;
      const std::string& target = network.graph.values[static_cast<size_t>(id)].target;
      if (!target.empty()) store.Get(target).uniform_(low, high, generator);
    };
    if (name == "aten::mul")
      for (const Use& use : UsesOf(op)) {
        const std::string& target = network.graph.values[static_cast<size_t>(use.value)].target;
        constexpr double kNoScale = 0.05;
        if (target.empty() || !store.Get(target).is_floating_point()) continue;
        if (MaxAbs(store.Get(target)) < kNoScale) store.Get(target).uniform_(0.5, 1.5, generator);
      }
    if (name == "aten::layer_norm" || name == "aten::group_norm" || name == "aten::rms_norm") {
      draw("weight", 0.5, 1.5);
      draw("bias", -1.5, 1.5);
    }
    if (name != "aten::batch_norm") continue;
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
  explicit Runner(const Graph& graph) : executor_(graph) {}
  Tensor Run(const ParameterStore& store, std::vector<Tensor> inputs,
             const std::vector<Gate>& gates = {}) const {
    for (Tensor& input : inputs) input = input.clone();  // a network may write into its inputs
    std::vector<Tensor> outputs = executor_.Run(executor_.Bind(store), inputs, {.gates = gates});
    for (Tensor& output : outputs) output = output.reshape({-1}).to(at::kDouble);
    // Masked positions of an attention may hold infinities: equal on both sides or an error.
    return at::nan_to_num(at::cat(outputs), std::numeric_limits<double>::quiet_NaN(), 1e30, -1e30);
  }

 private:
  Executor executor_;
};

/// Two batch sizes where the batch is free.
std::vector<int64_t> Batches(const Network& network) {
  for (const InputSpec& input : network.graph.inputs)
    if (!input.dynamic_batch) return {1};
  return {1, 3};
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
  const Network reference =
      MaskedReference(space, EffectiveMask(space, UnitMask(space, selection)));
  const Graph reference64 = Widened(reference.graph), source64 = Widened(source.graph),
              pruned64 = Widened(pruned.graph);
  const Runner masked(reference.graph), cut(pruned.graph), masked64(reference64), cut64(pruned64),
      uncut64(source64);
  const auto gates = ReadGates(space, MaskTensor(space, selection, OwnType(source)));
  const auto gates64 = ReadGates(space, MaskTensor(space, selection, at::kDouble));
  const ParameterStore disturbed = Disturbed(source, reference.store, seed);
  const ParameterStore disturbed_cut = SliceStore(disturbed, plan);
  certificate.control = 1e300;
  for (const int64_t batch : Batches(source)) {
    const auto x = RandomInputs(source, batch, seed, Width::kOwn);
    const Tensor m = masked.Run(reference.store, x, gates);
    const double error = MaxAbs(cut.Run(pruned.store, x) - m);
    Raise(certificate.max_abs_error, error);
    Raise(certificate.max_rel_error, Relative(error, MaxAbs(m)));
    const auto x64 = RandomInputs(source, batch, seed, Width::kDouble);
    const Tensor m64 = masked64.Run(disturbed, x64, gates64);
    const double scale = MaxAbs(m64);
    const double error64 = MaxAbs(cut64.Run(disturbed_cut, x64) - m64);
    Raise(certificate.max_rel_error_f64, Relative(error64, scale));
    certificate.control =
        std::min(certificate.control, MaxAbs(uncut64.Run(disturbed, x64) - m64) / scale);
  }
}

/// Producer rows of the chosen units, overwritten with noise of three times the weight's deviation.
ParameterStore NoisyProducers(const Space& space, const ParameterStore& store,
                              const std::vector<uint8_t>& chosen, uint64_t seed) {
  ParameterStore noisy = store.Clone();
  at::Generator generator = Stream(seed, "certificate noise");
  for (size_t g = 0; g < space.groups().size(); ++g)
    for (const Member& member : space.groups()[g].members) {
      if (member.role != MemberRole::kProducer || member.blocks > 1) continue;
      const Tensor tensor = noisy.Get(member.parameter);
      const double scale = 3 * (tensor.numel() > 1 ? tensor.std().item<double>() : 1.0);
      std::vector<int64_t> rows;
      for (int64_t u = 0; u < member.units(); ++u)
        if (chosen[static_cast<size_t>(space.unit_offset(g) + member.first_unit + u)])
          for (int64_t k = 0; k < member.per_unit; ++k)
            rows.push_back(member.indices[static_cast<size_t>(u * member.per_unit + k)]);
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
    const Group& group = space.groups()[g];
    const int64_t run = group.units / group.blocks;
    for (int64_t block = 0; block < group.blocks; ++block) {
      const auto order = rng.Permutation(run);
      for (size_t i = 0; i < order.size() / 2; ++i)
        chosen[static_cast<size_t>(space.unit_offset(g) + block * run + order[i])] = 1;
    }
  }
  std::vector<uint8_t> mask(chosen.size());
  for (size_t unit = 0; unit < chosen.size(); ++unit) mask[unit] = !chosen[unit];
  mask = EffectiveMask(space, mask);
  std::vector<int64_t> factors;
  for (size_t unit = 0; unit < mask.size(); ++unit) {
    chosen[unit] = !mask[unit];
    certificate.invariance_units += chosen[unit];
    factors.push_back(mask[unit]);
  }
  const auto gates = ReadGates(space, at::tensor(factors, at::kLong).to(OwnType(source)));
  const Network reference = MaskedReference(space, mask);
  const Runner runner(reference.graph);
  const auto x = RandomInputs(source, Batches(source).back(), seed, Width::kOwn);
  const Tensor before = runner.Run(reference.store, x, gates);
  const Tensor after = runner.Run(NoisyProducers(space, reference.store, chosen, seed), x, gates);
  certificate.invariance_exact = at::equal(before, after);
}

/// The first op whose kept outputs differ between masked and pruned network.
std::string FirstDifference(const Space& space, const Selection& selection, const Network& pruned,
                            uint64_t seed) {
  const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
  const Network source = MaskedReference(space, mask);
  const auto gates = ReadGates(space, MaskTensor(space, selection, OwnType(source)));
  const auto x = RandomInputs(source, 1, seed, Width::kOwn);
  const size_t values = space.network().graph.values.size();
  std::vector<Tensor> expected(values), found(values);
  const auto record = [&x](const Network& network, const std::vector<Gate>& attached,
                           std::vector<Tensor>& values) {
    std::vector<Tap> taps;
    for (size_t id = 0; id < values.size(); ++id)
      taps.push_back(
          {static_cast<ValueId>(id), [&values, id](const Tensor& t) { values[id] = t.clone(); }});
    const Executor executor(network.graph);
    std::vector<Tensor> inputs;
    for (const Tensor& input : x) inputs.push_back(input.clone());
    executor.Run(executor.Bind(network.store), inputs, {.gates = attached, .taps = taps});
  };
  record(source, gates, expected);
  record(pruned, {}, found);
  for (const Op& op : source.graph.ops) {
    if (op.outputs.empty()) continue;
    const auto id = static_cast<size_t>(op.outputs.front());
    Tensor kept = expected[id];
    if (!kept.defined() || !found[id].defined()) continue;
    bool in_blocks = false;  // each block keeps its own: compared by the ops that follow
    for (const uint8_t block : space.values()[id].in_block) in_blocks = in_blocks || block;
    if (in_blocks) continue;
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
  // A statistic taken in another order rounds differently, layer after layer.
  constexpr double kNormTolerance = 1e-4;
  if (!space.norms().empty()) certificate.tolerance = kNormTolerance;
  // Types with few digits: the run in float64 is the proof, this one only has to be near.
  const at::ScalarType own = OwnType(space.network());
  if (own == at::kHalf) certificate.tolerance = 1e-2;
  if (own == at::kBFloat16) certificate.tolerance = 8e-2;
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
    if (JsonMember(json, "format", TextOf) != "espalier-certificate" ||
        JsonMember(json, "version", IntOf) != 1)
      throw Error(ErrorKind::kModel, "not an espalier-certificate of version 1");
    Certificate c;
    c.passed = JsonMember(json, "passed", BoolOf);
    c.max_abs_error = JsonMember(json, "max_abs_error", NumberOf);
    c.max_rel_error = JsonMember(json, "max_rel_error", NumberOf);
    c.tolerance = JsonMember(json, "tolerance", NumberOf);
    c.max_rel_error_f64 = JsonMember(json, "max_rel_error_f64", NumberOf);
    c.invariance_exact = JsonMember(json, "invariance_exact", BoolOf);
    c.invariance_units = JsonMember(json, "invariance_units", IntOf);
    c.control = JsonMember(json, "control", NumberOf);
    c.failure = JsonMember(json, "failure", TextOf);
    c.source_sha256 = JsonMember(json, "source_sha256", TextOf);
    c.pruned_sha256 = JsonMember(json, "pruned_sha256", TextOf);
    c.plan_sha256 = JsonMember(json, "plan_sha256", TextOf);
    return c;
  } catch (const Error& error) {
    throw Error(ErrorKind::kModel, Str("certificate: ", error.message()));
  }
}

}  // namespace espalier
