#include "env/eval/inference_rewrite.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "env/base/error.h"
#include "env/graph/memory_format.h"
#include "env/graph/schema_writes.h"

namespace espalier {
namespace {

/// Values an op writes in place, by its schema.
std::vector<ValueId> WrittenValues(const Op& op) {
  std::vector<ValueId> written;
  const auto& arguments = op.handle.schema().arguments();
  for (const Use& use : UsesOf(op)) {
    if (IsWritten(arguments[static_cast<size_t>(use.arg)])) written.push_back(use.value);
  }
  return written;
}

}  // namespace

void InferenceRewrite::SetArg(Op& op, const std::string& argument, Arg value) {
  const int index = op.ArgIndex(argument);
  ESPALIER_CHECK(index >= 0, op.name, " has no argument ", argument);
  op.args[static_cast<size_t>(index)] = std::move(value);
}

InferenceRewrite::InferenceRewrite(Network network)
    : network_(std::move(network)),
      graph_(network_.graph),
      samples_(graph_.values.size()),
      removed_(graph_.ops.size(), false) {
  const at::NoGradGuard no_grad;
  for (const std::string& name : network_.store.CanonicalNames())
    network_.store.Set(name, network_.store.Get(name).detach());
  at::Device device = at::kCPU;
  for (const std::string& name : network_.store.CanonicalNames())
    device = network_.store.Get(name).device();
  std::vector<Tap> taps;
  for (size_t id = 0; id < graph_.values.size(); ++id)
    taps.push_back({static_cast<ValueId>(id), [this, id](const Tensor& t) { samples_[id] = t; }});
  std::vector<Tensor> inputs;
  for (const Tensor& input : SampleInputs(network_, 2)) inputs.push_back(input.to(device));
  const Executor executor(graph_);
  executor.Run(executor.Bind(network_.store), inputs, {.taps = taps});
}

std::vector<int32_t> InferenceRewrite::Readers(ValueId id) const {
  std::vector<int32_t> readers;
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    if (removed_[i]) continue;
    for (const Use& use : UsesOf(graph_.ops[i]))
      if (use.value == id) readers.push_back(static_cast<int32_t>(i));
  }
  return readers;
}

bool InferenceRewrite::IsOutput(ValueId id) const {
  return std::find(graph_.outputs.begin(), graph_.outputs.end(), id) != graph_.outputs.end();
}

int32_t InferenceRewrite::OnlyReader(ValueId id) const {
  const std::vector<int32_t> readers = Readers(id);
  return readers.size() == 1 && !IsOutput(id) ? readers.front() : -1;
}

std::optional<Tensor> InferenceRewrite::Stored(ValueId id) const {
  if (id == kNoValue) return std::nullopt;
  const std::string& target = graph_.values[static_cast<size_t>(id)].target;
  if (target.empty()) return std::nullopt;
  return network_.store.Get(target);
}

InferenceRewrite::Origin InferenceRewrite::OriginOf(ValueId stored) const {
  const std::string& target = graph_.values[static_cast<size_t>(stored)].target;
  const auto found = origins_.find(target);
  return found == origins_.end() ? Origin{network_.store.Canonical(target)} : found->second;
}

ValueId InferenceRewrite::AddStored(const std::string& name, const Tensor& tensor, Origin origin) {
  std::string target = name;
  for (int copy = 2; network_.store.Has(target); ++copy) target = Str(name, "_", copy);
  network_.store.Add(target, tensor, StoreKind::kConstant);
  origins_[target] = std::move(origin);
  graph_.values.push_back({"c_" + target, ValueKind::kConstant, target, -1});
  samples_.push_back(tensor);
  return static_cast<ValueId>(graph_.values.size() - 1);
}

/// Null for what is no tensor with memory of its own.
const void* InferenceRewrite::MemoryOf(ValueId id) const {
  if (!sample(id).defined() || !sample(id).has_storage()) return nullptr;
  const void* memory = sample(id).storage().unsafeGetStorageImpl();
  for (auto same = same_memory_.find(memory); same != same_memory_.end();
       same = same_memory_.find(memory))
    memory = same->second;
  return memory;
}

bool InferenceRewrite::SharesMemory(ValueId a, ValueId b) const {
  return a == b || (MemoryOf(a) != nullptr && MemoryOf(a) == MemoryOf(b));
}

bool InferenceRewrite::WrittenBetween(ValueId id, int32_t first, int32_t last) const {
  for (int32_t i = first + 1; i < last; ++i) {
    if (removed_[static_cast<size_t>(i)]) continue;
    for (const ValueId written : WrittenValues(graph_.ops[static_cast<size_t>(i)]))
      if (SharesMemory(written, id)) return true;
  }
  return false;
}

/// True when the memory of `id` is a result's own and nobody reads it after op `position`.
bool InferenceRewrite::MayOverwrite(ValueId id, int32_t position) const {
  for (size_t other = 0; other < graph_.values.size(); ++other) {
    const auto value = static_cast<ValueId>(other);
    const Value& known = graph_.values[other];
    if (!SharesMemory(id, value) || known.producer >= position) continue;
    if (known.kind != ValueKind::kResult || IsOutput(value)) return false;
    for (const int32_t reader : Readers(value))
      if (reader > position) return false;
  }
  return true;
}

void InferenceRewrite::Remove(int32_t index) {
  removed_[static_cast<size_t>(index)] = true;
  ++fused_;
}

void InferenceRewrite::FoldBatchNorm() {
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    const Op& norm = graph_.ops[i];
    if (norm.target() != "aten::batch_norm") continue;
    const ValueId input = norm.ValueArg("input");
    if (input == kNoValue || OnlyReader(input) != static_cast<int32_t>(i)) continue;
    const int32_t producer = graph_.values[static_cast<size_t>(input)].producer;
    if (producer >= 0 && FoldInto(producer, static_cast<int32_t>(i)))
      Remove(static_cast<int32_t>(i));
  }
}

bool InferenceRewrite::FoldInto(int32_t producer, int32_t norm_index) {
  const Op& norm = op(norm_index);
  Op& layer = op(producer);
  if (NameOf(layer) != "aten::conv2d" && layer.target() != "aten::linear") return false;
  // Behind a linear layer of [B, T, C] batch_norm would normalise axis 1, not the outputs.
  if (layer.target() == "aten::linear" && sample(layer.outputs[0]).dim() != 2) return false;
  const auto weight = Stored(layer.ValueArg("weight"));
  const auto mean = Stored(norm.ValueArg("running_mean"));
  const auto variance = Stored(norm.ValueArg("running_var"));
  if (!weight || !mean || !variance) return false;
  const auto scale = Stored(norm.ValueArg("weight")), shift = Stored(norm.ValueArg("bias"));
  const auto bias = Stored(layer.ValueArg("bias"));
  if (!scale && norm.ValueArg("weight") != kNoValue) return false;  // computed, not stored
  if (!shift && norm.ValueArg("bias") != kNoValue) return false;
  if (!bias && layer.ValueArg("bias") != kNoValue) return false;

  // y = (w x + b - mean) f + shift with f = scale / sqrt(var + eps); folded in double.
  const auto wide = [](const Tensor& tensor) { return tensor.to(at::kDouble); };
  const double eps = norm.Constant("eps").toDouble();
  Tensor factor = (wide(*variance) + eps).rsqrt();  // [C_out]
  if (scale) factor = factor * wide(*scale);
  Tensor folded_bias = bias ? wide(*bias) - wide(*mean) : -wide(*mean);
  folded_bias = folded_bias * factor;
  if (shift) folded_bias = folded_bias + wide(*shift);
  std::vector<int64_t> per_row(static_cast<size_t>(weight->dim()), 1);
  per_row[0] = -1;
  const Tensor folded = wide(*weight) * factor.view(per_row);

  const Origin origin = OriginOf(layer.ValueArg("weight"));
  SetArg(layer, "weight",
         AddStored(layer.name + ".folded_weight", folded.to(weight->scalar_type()), origin));
  SetArg(layer, "bias",
         AddStored(layer.name + ".folded_bias", folded_bias.to(weight->scalar_type()),
                   {.source = origin.source, .rows_only = true}));
  layer.outputs = norm.outputs;
  graph_.values[static_cast<size_t>(layer.outputs[0])].producer = producer;
  return true;
}

void InferenceRewrite::UseChannelsLast() {
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    if (removed_[i] || NameOf(graph_.ops[i]) != "aten::conv2d") continue;
    const auto weight = Stored(graph_.ops[i].ValueArg("weight"));
    if (!weight || weight->is_contiguous(at::MemoryFormat::ChannelsLast)) continue;
    SetArg(graph_.ops[i], "weight",
           AddStored(graph_.ops[i].name + ".channels_last_weight",
                     weight->contiguous(at::MemoryFormat::ChannelsLast),
                     OriginOf(graph_.ops[i].ValueArg("weight"))));
  }
}

void InferenceRewrite::CastTo(at::ScalarType dtype) {
  for (const std::string& name : network_.store.CanonicalNames()) {
    const Tensor& tensor = network_.store.Get(name);
    if (tensor.is_floating_point()) network_.store.Set(name, tensor.to(dtype));
  }
}

void InferenceRewrite::ApplyAll(at::ScalarType dtype) {
  DropIdle();
  FoldBatchNorm();
  UseChannelsLast();
  const std::vector<std::string> names = network_.store.CanonicalNames();
  if (names.empty() || network_.store.Get(names.front()).is_cpu()) FuseConvolutions();
  if (dtype != at::kFloat) CastTo(dtype);
}

Network InferenceRewrite::Take() {
  std::vector<Op> kept;
  for (size_t i = 0; i < graph_.ops.size(); ++i)
    if (!removed_[i]) kept.push_back(std::move(graph_.ops[i]));
  graph_.ops = std::move(kept);
  for (size_t i = 0; i < graph_.ops.size(); ++i)
    for (const ValueId output : graph_.ops[i].outputs)
      graph_.values[static_cast<size_t>(output)].producer = static_cast<int32_t>(i);
  samples_.clear();
  Validate(graph_);
  return std::move(network_);
}

Tensor PrepareInput(const Tensor& input, at::ScalarType dtype) {
  const Tensor ready = ChannelsLast(input);
  return dtype != at::kFloat && ready.is_floating_point() ? ready.to(dtype) : ready;
}

std::vector<Tensor> PrepareInputs(std::vector<Tensor> inputs, at::ScalarType dtype) {
  for (Tensor& input : inputs) input = PrepareInput(input, dtype);
  return inputs;
}

}  // namespace espalier
