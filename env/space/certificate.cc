#include "env/space/certificate.h"

#include <ATen/ATen.h>
#include <c10/core/DefaultDtype.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/rng.h"
#include "env/graph/generator_scope.h"
#include "env/space/disturbance.h"
#include "env/space/masked_reference.h"

namespace espalier {
namespace {

constexpr double kLeastControl = 1e-2;  // relative; below it the masks hardly matter

/// Raises `worst` to `error`; NaN, which compares as no error at all, is the largest there is.
void Raise(double& worst, double error) {
  worst = std::isnan(error) ? std::numeric_limits<double>::max() : std::max(worst, error);
}

double Relative(double error, double scale) { return error == 0 ? 0 : error / scale; }

/// Which precision a network is run in: its own, or float64 throughout.
enum class Width { kOwn, kDouble };

/// The type of the first floating parameter: how near the run in it can come.
at::ScalarType OwnType(const Network& network) {
  for (const std::string& name : network.store.CanonicalNames())
    if (network.store.Get(name).is_floating_point()) return network.store.Get(name).scalar_type();
  return at::kFloat;
}

/// Random inputs of the recorded shapes; integers stay as sampled (always legal indices).
std::vector<Tensor> RandomInputs(const Network& network, int64_t batch, uint64_t seed,
                                 Width width) {
  at::Generator generator = NoiseStream(seed, Str("input ", batch));
  std::vector<Tensor> inputs = SampleInputs(network, batch);
  for (Tensor& input : inputs)
    if (input.is_floating_point())
      input = at::randn(input.sizes(), generator, at::TensorOptions(at::kFloat))
                  .to(width == Width::kDouble ? at::kDouble : input.scalar_type());
  return inputs;
}

/// Explicit casts and constants of floating and complex types as float64, for a run in double
/// precision; what only asserts a type asserts nothing.
Graph Widened(Graph graph) {
  for (Op& op : graph.ops)
    for (size_t a = 0; a < op.args.size(); ++a) {
      auto* constant = std::get_if<c10::IValue>(&op.args[a]);
      if (constant && op.handle.operator_name().name == "aten::_assert_tensor_metadata")
        *constant = c10::IValue();
      if (!constant || op.handle.schema().arguments()[a].name() != "dtype") continue;
      const auto type = constant->isInt() ? static_cast<at::ScalarType>(constant->toInt())
                                          : at::ScalarType::Undefined;
      if (at::isFloatingType(type)) *constant = c10::IValue(static_cast<int64_t>(at::kDouble));
      if (at::isComplexType(type))
        *constant = c10::IValue(static_cast<int64_t>(at::kComplexDouble));
    }
  return graph;
}

/// Floating tensors are float64 where nothing says otherwise, for its lifetime: zeros(), and what
/// an op makes of integers (bytes / 255).
///
/// Threads  the whole process.
class DoubleByDefault {
 public:
  DoubleByDefault() { c10::set_default_dtype(caffe2::TypeMeta::Make<double>()); }
  ~DoubleByDefault() { c10::set_default_dtype(usual_); }
  DoubleByDefault(const DoubleByDefault&) = delete;
  DoubleByDefault& operator=(const DoubleByDefault&) = delete;

 private:
  const caffe2::TypeMeta usual_ = c10::get_default_dtype();
};

/// A network in double precision: the tensors of `load` and the inputs are that already.
std::vector<std::vector<Tensor>> RunDouble(const Network& network, const TensorLoader& load,
                                           const std::vector<std::vector<Tensor>>& x64) {
  const DoubleByDefault scope;
  return RunStreamed(Widened(network.graph), network.store, load, x64);
}

/// All outputs of each run in one row, in double.
std::vector<Tensor> Rows(const std::vector<std::vector<Tensor>>& runs) {
  std::vector<Tensor> rows;
  for (const std::vector<Tensor>& outputs : runs) {
    std::vector<Tensor> flat;
    for (const Tensor& output : outputs)
      flat.push_back(
          (output.is_complex() ? at::view_as_real(output) : output).reshape({-1}).to(at::kDouble));
    // Masked positions of an attention may hold infinities: equal on both sides or an error.
    rows.push_back(
        at::nan_to_num(at::cat(flat), std::numeric_limits<double>::quiet_NaN(), 1e30, -1e30));
  }
  return rows;
}

/// Two batch sizes where the batch is free.
std::vector<int64_t> Batches(const Network& network) {
  for (const InputSpec& input : network.graph.inputs)
    if (!input.dynamic_batch) return {1};
  return {1, 3};
}

/// What is cut, and how: the parts of a proof have it in common.
struct Proof {
  const Space& space;
  const Plan& plan;
  const Network& reference;  ///< masked by the selection
  const Network& pruned;
  const TensorLoader& load;  ///< the pruned network's tensors
  uint64_t seed;
};

/// Small networks in double are kept from run to run.
constexpr int64_t kMostRemembered = int64_t{256} << 20;

bool CutsNothing(const Plan& plan) { return plan.kept.empty() && plan.branches.empty(); }

/// Masked against pruned, in both precisions and at two batch sizes; the control beside it. Where
/// the removed weights hardly matter they are overwritten with ever larger noise, which must not
/// reach the masked output but has to reach the uncut one.
void CompareMaskedAndPruned(const Proof& proof, Certificate& certificate) {
  const Network& source = proof.space.network();
  const auto inputs = [&](Width width) {
    std::vector<std::vector<Tensor>> all;
    for (const int64_t batch : Batches(source))
      all.push_back(RandomInputs(source, batch, proof.seed, width));
    return all;
  };
  const auto x = inputs(Width::kOwn), x64 = inputs(Width::kDouble);
  const auto m = Rows(RunStreamed(proof.reference.graph, proof.reference.store,
                                  LoaderOf(proof.reference.store), x));
  const auto p = Rows(RunStreamed(proof.pruned.graph, proof.pruned.store, proof.load, x));
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = MaxAbs(p[i] - m[i]);
    Raise(certificate.max_abs_error, error);
    Raise(certificate.max_rel_error, Relative(error, MaxAbs(m[i])));
  }
  const Disturbance disturbance(source, proof.seed);
  const ParameterStore& store = proof.reference.store;
  const TensorLoader disturbed =
      Remembering([&](const std::string& name) { return disturbance.Of(name, store.Get(name)); },
                  store, kMostRemembered);
  const TensorLoader disturbed_cut = [&](const std::string& name) {
    return disturbance.Touches(name)
               ? SliceStored(proof.plan, name, disturbed(name))
               : disturbance.Of(name, SliceStored(proof.plan, name, store.Get(name)));
  };
  const auto run64 = [&](const Network& network, const TensorLoader& load) {
    return Rows(RunDouble(network, load, x64));
  };
  const auto m64 = run64(proof.reference, disturbed), p64 = run64(proof.pruned, disturbed_cut),
             uncut64 = run64(source, disturbed);
  const auto each = [&](const std::vector<Tensor>& rows, const auto& take) {
    for (size_t i = 0; i < rows.size(); ++i) take(MaxAbs(rows[i] - m64[i]), MaxAbs(m64[i]));
  };
  const auto has_to_equal = [&](const std::vector<Tensor>& rows) {
    each(rows, [&](double error, double scale) {
      Raise(certificate.max_rel_error_f64, Relative(error, scale));
    });
  };
  const auto has_to_differ = [&](const std::vector<Tensor>& rows) {
    certificate.control = 1e300;
    each(rows, [&](double error, double scale) {
      certificate.control = std::min(certificate.control, error / scale);
    });
  };
  has_to_equal(p64);
  has_to_differ(uncut64);
  for (const double noise : {3.0, 1e2, 1e4}) {
    if (certificate.control >= kLeastControl || CutsNothing(proof.plan)) break;
    const TensorLoader noisy = NoisyRemoved(proof.plan, store, disturbed, noise, proof.seed);
    certificate.noise = noise;
    has_to_equal(run64(proof.reference, noisy));
    has_to_differ(run64(source, noisy));
  }
}

/// How far the masked network's own precision takes its outputs from those in double: what float32
/// makes of weights that amplify (logits in the thousands) is no fault of a cut.
double Rounding(const Proof& proof) {
  const ParameterStore& store = proof.reference.store;
  const TensorLoader widened = [&](const std::string& name) {
    const Tensor tensor = store.Get(name).detach();
    return tensor.is_floating_point() ? tensor.to(at::kDouble) : tensor;
  };
  double rounding = 0;
  for (const int64_t batch : Batches(proof.space.network())) {
    const std::vector<Tensor> x =
        RandomInputs(proof.space.network(), batch, proof.seed, Width::kOwn);
    std::vector<Tensor> x64;
    for (const Tensor& input : x)
      x64.push_back(input.is_floating_point() ? input.to(at::kDouble) : input);
    const Network& reference = proof.reference;
    const Tensor own = Rows(RunStreamed(reference.graph, store, LoaderOf(store), {x})).front();
    const Tensor wide = Rows(RunDouble(reference, widened, {x64})).front();
    Raise(rounding, Relative(MaxAbs(own - wide), MaxAbs(wide)));
  }
  return rounding;
}

void CheckInvariance(const Space& space, uint64_t seed, Certificate& certificate) {
  const Network& source = space.network();
  Rng rng(seed, 0, "certificate half");
  std::vector<uint8_t> chosen(static_cast<size_t>(space.total_units()), 0);
  for (size_t g = 0; g < space.groups().size(); ++g) {
    const Group& group = space.groups()[g];
    if (group.least == 0) {  // whole or not at all: every second on average
      chosen[static_cast<size_t>(space.unit_offset(g))] = rng.Uniform(0, 1) < 0.5;
      continue;
    }
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
  for (size_t unit = 0; unit < mask.size(); ++unit) {
    chosen[unit] = !mask[unit];
    certificate.invariance_units += chosen[unit];
  }
  const Network reference = MaskedReference(space, mask);
  const ParameterStore& store = reference.store;
  const std::vector<std::vector<Tensor>> x = {
      RandomInputs(source, Batches(source).back(), seed, Width::kOwn)};
  const auto run = [&](const TensorLoader& load) {
    return Rows(RunStreamed(reference.graph, store, load, x)).front();
  };
  certificate.invariance_exact =
      at::equal(run(LoaderOf(store)), run(NoisyProducers(space, store, chosen, seed)));
}

/// The first op whose kept outputs differ between masked and pruned network.
std::string FirstDifference(const Proof& proof, const std::vector<uint8_t>& mask) {
  const Space& space = proof.space;
  const auto x = RandomInputs(space.network(), 1, proof.seed, Width::kOwn);
  const auto record = [&](const Graph& graph, const ParameterStore& store) {
    std::vector<Tensor> values(graph.values.size());
    std::vector<Tap> taps;
    for (size_t id = 0; id < values.size(); ++id)
      taps.push_back(
          {static_cast<ValueId>(id), [&values, id](const Tensor& t) { values[id] = t.clone(); }});
    const GeneratorScope same_draws(graph);
    const Executor executor(graph);
    executor.Run(executor.Bind(store), x, {.taps = taps});
    return values;
  };
  ParameterStore pruned = proof.pruned.store;
  for (const std::string& name : pruned.CanonicalNames()) pruned.Set(name, proof.load(name));
  const auto expected = record(proof.reference.graph, proof.reference.store);
  const auto found = record(proof.pruned.graph, pruned);
  for (const Op& op : space.network().graph.ops) {
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
                    const Network& pruned, uint64_t seed, const TensorLoader& load) {
  const at::NoGradGuard no_grad;
  const TensorLoader content = load ? load : LoaderOf(pruned.store);
  const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
  ESPALIER_CHECK(pruned.graph.values.size() == space.network().graph.values.size(), "'",
                 pruned.name, "' is no cut of this space's network '", space.network().name, "'");
  const Network reference = MaskedReference(space, mask);
  const Proof proof{space, plan, reference, pruned, content, seed};
  Certificate certificate;
  certificate.source_sha256 = space.network().WeightsHash();
  certificate.pruned_sha256 = WeightsHash(pruned.store, content);
  certificate.plan_sha256 = Sha256Hex(ToJson(plan).dump());
  CompareMaskedAndPruned(proof, certificate);
  CheckInvariance(space, seed, certificate);
  // A statistic taken in another order rounds differently, layer after layer.
  constexpr double kNormTolerance = 1e-4;
  if (!space.norms().empty()) certificate.tolerance = kNormTolerance;
  // Types with few digits: the run in float64 is the proof, this one only has to be near.
  const at::ScalarType own = OwnType(space.network());
  if (own == at::kHalf) certificate.tolerance = 1e-2;
  if (own == at::kBFloat16) certificate.tolerance = 8e-2;
  const bool exact = certificate.max_rel_error_f64 <= Certificate::kToleranceFloat64;
  constexpr double kRoundings = 4, kMostRounding = 0.1;  // two runs, each off by its own
  if (exact && certificate.max_rel_error > certificate.tolerance)
    certificate.tolerance =
        std::max(certificate.tolerance, std::min(kMostRounding, kRoundings * Rounding(proof)));
  const bool equal = exact && certificate.max_rel_error <= certificate.tolerance;
  certificate.passed = equal && certificate.invariance_exact &&
                       (CutsNothing(plan) || certificate.control >= kLeastControl);
  if (certificate.passed) return certificate;
  if (!equal)
    certificate.failure = FirstDifference(proof, mask);
  else if (!certificate.invariance_exact)
    certificate.failure = "noise in removed producers reaches the output";
  else
    certificate.failure = Str("what the removed units hold never reaches an output (control ",
                              certificate.control, "): equality proves nothing");
  return certificate;
}

}  // namespace espalier
