#include "search/compensate.h"

#include <ATen/ATen.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <map>
#include <optional>

#include "criteria/input_columns.h"
#include "env/base/error.h"
#include "env/graph/executor.h"

namespace espalier {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr int64_t kChunk = 64;  // samples whose patches are in memory at once

/// One layer to fit, and where its target and intercept live. Values have the same ids in the cut
/// graph and in the uncut one; ops do not, where branches are gone.
struct Layer {
  int32_t op = -1;  // of the cut graph
  ValueId input = kNoValue, output = kNoValue;
  std::string weight, bias;  // store names; bias may be empty
  const Op* norm = nullptr;  // batch norm that alone reads the output
  ValueId sum = kNoValue;    // residual: output of the add
  ValueId trunk = kNoValue;  // residual: the operand that is not the branch
  std::string index;         // residual: store name of the scatter index, or empty
};

std::string StoredName(const Network& network, ValueId value) {
  return value == kNoValue ? "" : network.graph.values[static_cast<size_t>(value)].target;
}

bool IsOp(const Op& op, const char* name) { return op.handle.operator_name().name == name; }

/// Kept rows of a weight: the plan's list for axis 0, or nothing when all rows stay.
std::optional<Tensor> KeptRows(const Plan& plan, const std::string& weight) {
  const auto found = plan.kept.find(weight);
  if (found == plan.kept.end()) return std::nullopt;
  for (const KeptAxis& axis : found->second) {
    if (axis.axis == 0) return at::tensor(axis.kept.front(), at::kLong);
  }
  return std::nullopt;
}

/// Finds the layers of a graph that can be fitted; others are named with the reason.
class LayerFinder {
 public:
  LayerFinder(const Network& cut, bool residual)
      : cut_(cut), residual_(residual), consumers_(cut.graph.Consumers()) {}

  std::vector<Layer> Find(std::vector<std::string>& skipped) const {
    std::vector<Layer> layers;
    for (size_t i = 0; i < cut_.graph.ops.size(); ++i) {
      const Op& op = cut_.graph.ops[i];
      if (!IsOp(op, "aten::conv2d") && !IsOp(op, "aten::linear")) continue;
      const std::string why = Unsuitable(op);
      if (!why.empty()) {
        skipped.push_back(Str(op.module_path, ": ", why));
        continue;
      }
      Layer layer;
      layer.op = static_cast<int32_t>(i);
      layer.input = op.ValueArg("input");
      layer.output = op.outputs.front();
      layer.weight = StoredName(cut_, op.ValueArg("weight"));
      layer.bias = StoredName(cut_, op.ValueArg("bias"));
      FindNorm(layer);
      if (residual_ && layer.norm != nullptr) FindTrunk(layer);
      layers.push_back(layer);
    }
    return layers;
  }

 private:
  std::string Unsuitable(const Op& op) const {
    const std::string why = NotAMatrix(cut_, op);
    if (!why.empty()) return why;
    const auto& readers = consumers_[static_cast<size_t>(op.ValueArg("weight"))];
    return readers.size() > 1 ? "its weight serves several layers" : "";
  }

  /// The only op that reads a value, or null.
  const Op* OnlyReader(ValueId value) const {
    const auto& readers = consumers_[static_cast<size_t>(value)];
    const auto& outputs = cut_.graph.outputs;
    if (readers.size() != 1 || std::find(outputs.begin(), outputs.end(), value) != outputs.end()) {
      return nullptr;
    }
    return &cut_.graph.ops[static_cast<size_t>(readers.front())];
  }

  void FindNorm(Layer& layer) const {
    const Op* reader = OnlyReader(layer.output);
    if (reader == nullptr || !IsOp(*reader, "aten::batch_norm")) return;
    for (const char* argument : {"weight", "bias", "running_mean", "running_var"}) {
      if (StoredName(cut_, reader->ValueArg(argument)).empty()) return;
    }
    layer.norm = reader;
  }

  /// conv - batch norm - add: the branch can aim at the uncut sum when the trunk is computed first.
  void FindTrunk(Layer& layer) const {
    const ValueId branch = layer.norm->outputs.front();
    const Op* add = OnlyReader(branch);
    if (add == nullptr) return;
    ValueId trunk = kNoValue;
    if (IsOp(*add, "aten::index_add") && add->ValueArg("source") == branch &&
        add->Constant("dim").toInt() == 1) {
      trunk = add->ValueArg("self");
      layer.index = StoredName(cut_, add->ValueArg("index"));
      if (layer.index.empty()) return;
    } else if (IsOp(*add, "aten::add") || IsOp(*add, "aten::add_")) {
      trunk = add->ValueArg("self") == branch ? add->ValueArg("other") : add->ValueArg("self");
    }
    if (trunk == kNoValue || trunk == branch || !add->Constant("alpha").toScalar().equal(1)) return;
    // The layer is fitted when its input is there: the trunk has to be there by then.
    const auto producer = [&](ValueId value) {
      return cut_.graph.values[static_cast<size_t>(value)].producer;
    };
    if (trunk != layer.input && producer(trunk) >= producer(layer.input)) return;
    layer.trunk = trunk;
    layer.sum = add->outputs.front();
  }

  const Network& cut_;
  const bool residual_;
  const std::vector<std::vector<int32_t>> consumers_;
};

/// Sums over all positions: what the regression needs.
struct Moments {
  double count = 0;
  Tensor gram;                                    // sum x x^T, [K, K]
  Tensor cross;                                   // sum r x^T, [O, K]
  Tensor mean_x;                                  // sum x, [K]; divided by count at the end
  Tensor mean_r;                                  // sum r, [O]
  double target_square = 0, target_variance = 0;  // of the target
  Tensor target_sum;
  double residual_square = 0;
};

/// [O, positions] of an output or target, the same order as InputColumns.
Tensor Positions(const Tensor& value, bool linear) {
  if (linear) return value.reshape({-1, value.size(-1)}).t();
  return value.transpose(0, 1).reshape({value.size(1), -1});
}

class Fitter {
 public:
  Fitter(const Network& uncut, const Plan& plan, Network& cut, const CompensateOptions& options)
      : uncut_(uncut), plan_(plan), cut_(cut), options_(options) {
    layers_ = LayerFinder(cut, options.residual).Find(result_.skipped);
  }

  CompensateResult Run(const std::vector<Tensor>& inputs) {
    const at::NoGradGuard no_grad;
    RecordTargets(inputs);
    std::vector<Tap> taps;
    for (const Layer& layer : layers_) {
      if (layer.trunk != kNoValue && ++trunk_uses_[layer.trunk] == 1) {
        taps.push_back(
            {layer.trunk, [this, id = layer.trunk](const Tensor& value) { values_[id] = value; }});
      }
    }
    for (const Layer& layer : layers_) {
      taps.push_back({layer.input, [this, &layer](const Tensor& value) { Fit(layer, value); }});
    }
    const Executor executor(cut_.graph);
    executor.Run(executor.Bind(cut_.store), inputs, {.taps = taps});
    return std::move(result_);
  }

 private:
  /// What each layer should produce: kept rows of the uncut output, or of the uncut sum.
  void RecordTargets(const std::vector<Tensor>& inputs) {
    std::vector<Tap> taps;
    for (const Layer& layer : layers_) {
      const ValueId wanted = layer.sum != kNoValue ? layer.sum : layer.output;
      std::optional<Tensor> rows = KeptRows(plan_, cut_.store.Canonical(layer.weight));
      if (!layer.index.empty()) rows = cut_.store.Get(layer.index);
      const bool linear = cut_.store.Get(layer.weight).dim() == 2;
      taps.push_back({wanted, [this, op = layer.op, rows, linear](const Tensor& value) {
                        const int64_t axis = linear ? value.dim() - 1 : 1;
                        targets_[op] = rows ? value.index_select(axis, rows->to(value.device()))
                                            : value.clone();
                      }});
    }
    const Executor executor(uncut_.graph);
    executor.Run(executor.Bind(uncut_.store), inputs, {.taps = taps});
  }

  /// Scale and shift the batch norm applies per row: [O] each; 1 and 0 when it plays no part.
  std::pair<Tensor, Tensor> Affine(const Layer& layer, int64_t rows) const {
    if (layer.sum == kNoValue) return {at::ones({rows}), at::zeros({rows})};
    const Op& norm = *layer.norm;
    const auto get = [&](const char* name) {
      return cut_.store.Get(StoredName(cut_, norm.ValueArg(name)));
    };
    const Tensor scale =
        get("weight") / (get("running_var") + norm.Constant("eps").toDouble()).sqrt();
    return {scale, get("bias") - get("running_mean") * scale};
  }

  /// How many of a target's samples a layer is fitted on.
  int64_t Samples(const Tensor& target, bool linear) const {
    const int64_t all = target.size(0), channels = target.size(linear ? target.dim() - 1 : 1);
    if (options_.positions == 0) return all;
    const int64_t each = std::max<int64_t>(target.numel() / (all * channels), 1);
    return std::clamp<int64_t>((options_.positions + each - 1) / each, 1, all);
  }

  Moments Accumulate(const Layer& layer, const Tensor& input, const Tensor& target,
                     const Tensor& scale, const Tensor& shift) const {
    const Op& op = cut_.graph.ops[static_cast<size_t>(layer.op)];
    const Tensor& weight = cut_.store.Get(layer.weight);
    const bool linear = weight.dim() == 2;
    const Tensor matrix = weight.reshape({weight.size(0), -1});  // [O, K]
    Moments sums;
    const int64_t samples = Samples(target, linear);
    for (int64_t first = 0; first < samples; first += kChunk) {
      const int64_t count = std::min(kChunk, samples - first);
      const Tensor x = InputColumns(op, weight, input.narrow(0, first, count));  // [K, P]
      const Tensor y = Positions(target.narrow(0, first, count), linear);        // [O, P]
      Tensor now = at::matmul(matrix, x);                                        // [O, P]
      if (!layer.bias.empty()) now = now + cut_.store.Get(layer.bias).unsqueeze(1);
      const Tensor r = y - (now * scale.unsqueeze(1) + shift.unsqueeze(1));  // [O, P]
      const auto add = [](Tensor& sum, const Tensor& part) {
        const Tensor exact = part.to(at::kCPU, at::kDouble);
        sum = sum.defined() ? sum + exact : exact;
      };
      add(sums.gram, at::matmul(x, x.t()));
      add(sums.cross, at::matmul(r, x.t()));
      add(sums.mean_x, x.sum(1));
      add(sums.mean_r, r.sum(1));
      add(sums.target_sum, y.sum(1));
      sums.target_square += y.square().sum().item<double>();
      sums.residual_square += r.square().sum().item<double>();
      sums.count += static_cast<double>(x.size(1));
    }
    sums.mean_x /= sums.count;
    sums.mean_r /= sums.count;
    sums.target_variance =
        sums.target_square - sums.target_sum.square().sum().item<double>() / sums.count;
    return sums;
  }

  /// arXiv:1707.06168 (2): argmin |R - D X - c|^2 + ridge |D|^2 in closed form. D: [O, K].
  static Tensor Solve(const Moments& sums, bool intercept, double ridge) {
    Tensor gram = sums.gram, cross = sums.cross;
    if (intercept) {
      gram = gram - sums.count * at::outer(sums.mean_x, sums.mean_x);
      cross = cross - sums.count * at::outer(sums.mean_r, sums.mean_x);
    }
    gram = gram.contiguous().clone();
    cross = cross.contiguous();
    const int64_t inputs = gram.size(0), outputs = cross.size(0);
    const double diagonal = gram.diagonal().mean().item<double>();
    if (!(diagonal > 0)) return at::zeros_like(cross);  // the layer reads constants
    gram.diagonal().add_(ridge * diagonal);
    const Eigen::Map<const Matrix> a(gram.const_data_ptr<double>(), inputs, inputs);
    const Eigen::Map<const Matrix> b(cross.const_data_ptr<double>(), outputs, inputs);
    Tensor solved = at::empty({outputs, inputs}, at::kDouble);
    Eigen::Map<Matrix>(solved.mutable_data_ptr<double>(), outputs, inputs) =
        a.llt().solve(b.transpose()).transpose();
    return solved;
  }

  void Fit(const Layer& layer, const Tensor& input) {
    const Op& op = cut_.graph.ops[static_cast<size_t>(layer.op)];
    Tensor weight = cut_.store.Get(layer.weight);
    Tensor target = std::move(targets_.at(layer.op));
    targets_.erase(layer.op);
    if (layer.sum != kNoValue) {
      const Tensor trunk = values_.at(layer.trunk);
      if (--trunk_uses_[layer.trunk] == 0) values_.erase(layer.trunk);
      target = target -
               (layer.index.empty() ? trunk : trunk.index_select(1, cut_.store.Get(layer.index)));
    }
    const auto [scale, shift] = Affine(layer, weight.size(0));
    const Moments sums = Accumulate(layer, input, target, scale, shift);
    const bool to_norm = layer.norm != nullptr;
    const bool intercept = to_norm || !layer.bias.empty();
    Tensor change = Solve(sums, intercept, options_.ridge);  // in the target's scale, [O, K]
    if (!change.isfinite().all().item<bool>()) {
      result_.skipped.push_back(Str(op.module_path, ": the regression has no finite solution"));
      return;
    }
    // A row whose batch norm scales by almost nothing cannot reach its target: it stays.
    const Tensor usable = scale.abs().gt(1e-3 * scale.abs().max());
    const Tensor rows = usable.to(at::kCPU, at::kDouble);
    change = change * rows.unsqueeze(1);
    Tensor constant = sums.mean_r * rows;  // c = mean r - D mean x
    if (intercept) constant = constant - at::matmul(change, sums.mean_x);
    const double left = ResidualAfter(sums, change, constant, intercept);
    result_.layers.push_back({op.module_path, layer.sum != kNoValue ? "trunk" : "output",
                              sums.residual_square / sums.target_variance,
                              left / sums.target_variance});

    const Tensor divisor = at::where(usable, scale, at::ones_like(scale)).to(at::kCPU, at::kDouble);
    weight.add_((change / divisor.unsqueeze(1)).reshape(weight.sizes()).to(weight.options()));
    if (!intercept) return;
    if (layer.sum != kNoValue) {  // after the norm
      AddTo(StoredName(cut_, layer.norm->ValueArg("bias")), constant);
    } else if (!layer.bias.empty()) {
      AddTo(layer.bias, constant);
    } else {  // before the norm: BN(y + c) is BN with the mean moved by -c
      AddTo(StoredName(cut_, layer.norm->ValueArg("running_mean")), -constant);
    }
  }

  void AddTo(const std::string& name, const Tensor& amount) {
    Tensor stored = cut_.store.Get(name);
    stored.add_(amount.to(stored.options()));
  }

  /// sum |r - D x - c|^2 from the moments.
  static double ResidualAfter(const Moments& sums, const Tensor& change, const Tensor& constant,
                              bool intercept) {
    double left = sums.residual_square;
    left -= 2 * (change * sums.cross).sum().item<double>();
    left += (at::matmul(change, sums.gram) * change).sum().item<double>();
    if (!intercept) return left;
    const Tensor fitted = at::matmul(change, sums.mean_x);  // mean of D x
    left -= 2 * sums.count * (constant * (sums.mean_r - fitted)).sum().item<double>();
    left += sums.count * constant.square().sum().item<double>();
    return left;
  }

  const Network& uncut_;
  const Plan& plan_;
  Network& cut_;
  const CompensateOptions options_;
  std::vector<Layer> layers_;
  std::map<int32_t, Tensor> targets_;  // by op
  std::map<ValueId, Tensor> values_;   // trunks of the cut network
  std::map<ValueId, int> trunk_uses_;  // layers that still need them
  CompensateResult result_;
};

/// Every op of the cut network makes the values that the uncut one's op of its name makes.
bool IsCutOf(const Network& uncut, const Network& cut) {
  if (uncut.graph.values.size() != cut.graph.values.size()) return false;
  const auto is_made_alike = [&](const Op& op) {
    return std::ranges::all_of(op.outputs, [&](ValueId output) {
      const int32_t producer = uncut.graph.values[static_cast<size_t>(output)].producer;
      return producer >= 0 && uncut.graph.ops[static_cast<size_t>(producer)].name == op.name;
    });
  };
  return std::ranges::all_of(cut.graph.ops, is_made_alike);
}

}  // namespace

std::vector<Tensor> JoinedInputs(Loader& loader, int64_t first, int64_t batches,
                                 at::Device device) {
  std::vector<std::vector<Tensor>> parts;  // by input
  for (int64_t i = 0; i < batches; ++i) {
    const std::vector<Tensor> next = loader.Get(first + i).To(device).inputs;
    parts.resize(next.size());
    for (size_t input = 0; input < next.size(); ++input) parts[input].push_back(next[input]);
  }
  std::vector<Tensor> inputs;
  for (const std::vector<Tensor>& part : parts) inputs.push_back(at::cat(part));
  return inputs;
}

CompensateResult Compensate(const Network& uncut, const Plan& plan, Network& cut,
                            const std::vector<Tensor>& inputs, const CompensateOptions& options) {
  ESPALIER_CHECK(IsCutOf(uncut, cut), "'", cut.name, "' is not a cut of '", uncut.name, "'");
  return Fitter(uncut, plan, cut, options).Run(inputs);
}

}  // namespace espalier
