#include "env/task/outcome.h"

#include <ATen/ATen.h>

#include "env/base/error.h"

namespace espalier {
namespace {

[[noreturn]] void Fail(ErrorKind kind, const std::string& name, const std::string& what,
                       const std::string& hint = "") {
  throw Error(kind, Str("'", name, "' ", what), hint);
}

/// The first output, in float32 where it has fewer bits.
Tensor Logits(const std::vector<Tensor>& outputs, const std::string& name) {
  const Tensor& logits = outputs.front();
  if (logits.dim() < 2 || !logits.is_floating_point())
    Fail(ErrorKind::kModel, name,
         Str("needs scores of classes, [batch, classes] or more axes, as the first output; the "
             "network returns ",
             logits.scalar_type(), " ", logits.sizes()));
  return logits.element_size() < 4 ? logits.to(at::kFloat) : logits;
}

Tensor ClassesFirst(const Tensor& logits, int64_t axis) {
  return axis == 1 ? logits : logits.movedim(axis, 1);
}

/// [B, ...]: the sizes of logits without the class axis.
std::vector<int64_t> Positions(const Tensor& logits, int64_t axis) {
  std::vector<int64_t> sizes = logits.sizes().vec();
  sizes.erase(sizes.begin() + axis);
  return sizes;
}

void CheckTargets(const Outcome& outcome, const std::string& name) {
  if (outcome.batch.targets.empty())
    Fail(ErrorKind::kData, name, "needs targets, and the data has none",
         "label-free: loss = \"kl\" or \"mse_outputs\", metric = \"agreement\" or "
         "\"output_error\" compare with the uncut network");
}

ValuePair Pair(const Tensor& value, const Tensor& wanted, const std::string& name,
               const std::string& what) {
  if (value.sizes() != wanted.sizes() || !value.is_floating_point())
    Fail(ErrorKind::kData, name,
         Str("needs an output like ", what, ", which is ", wanted.sizes(), "; the network returns ",
             value.scalar_type(), " ", value.sizes()));
  const Tensor wide = value.element_size() < 4 ? value.to(at::kFloat) : value;
  return {wide, wanted.to(wide.scalar_type())};
}

}  // namespace

Classified AgainstTargets(const Outcome& outcome, const std::string& name) {
  CheckTargets(outcome, name);
  const Tensor logits = Logits(outcome.outputs, name);
  const Tensor& classes = outcome.batch.targets.front();
  const bool whole = !classes.is_floating_point();
  if (whole && classes.sizes() == at::IntArrayRef(Positions(logits, 1)))
    return {logits, classes.to(at::kLong)};
  if (whole && logits.dim() == 3 && classes.sizes() == at::IntArrayRef(Positions(logits, 2)))
    return {ClassesFirst(logits, 2), classes.to(at::kLong)};
  Fail(ErrorKind::kData, name,
       Str("needs a class (integer) for every position of the output ", logits.sizes(),
           "; the first target is ", classes.scalar_type(), " ", classes.sizes()));
}

Classified AgainstNextTokens(const Outcome& outcome, const std::string& name) {
  const Tensor logits = Logits(outcome.outputs, name);
  const auto& from = outcome.batch.targets.empty() ? outcome.batch.inputs : outcome.batch.targets;
  const Tensor& tokens = from.front();
  if (logits.dim() != 3 || logits.size(1) < 2 || tokens.is_floating_point() ||
      tokens.sizes() != logits.sizes().slice(0, 2))
    Fail(ErrorKind::kData, name,
         Str("needs outputs [batch, token, word] and tokens [batch, token] (the first target, else "
             "the first input), two or more; it has ",
             logits.sizes(), " and ", tokens.scalar_type(), " ", tokens.sizes()));
  const int64_t last = logits.size(1) - 1;
  return {ClassesFirst(logits.narrow(1, 0, last), 2), tokens.narrow(1, 1, last).to(at::kLong)};
}

LogitPair AgainstUncut(const Outcome& outcome, const std::string& name, int64_t class_axis) {
  ESPALIER_CHECK(!outcome.uncut.empty(), name, " without the uncut network's outputs");
  const Tensor logits = Logits(outcome.outputs, name);
  if (class_axis >= logits.dim())
    Fail(ErrorKind::kConfig, name,
         Str("looks for classes on axis ", class_axis, " of the output ", logits.sizes()),
         "task.class_axis: 1 is the axis behind the batch");
  const bool by_targets =
      logits.dim() == 3 && !outcome.batch.targets.empty() &&
      outcome.batch.targets.front().sizes() == at::IntArrayRef(Positions(logits, 1));
  const int64_t usual = logits.dim() == 3 && !by_targets ? 2 : 1;
  const int64_t axis = class_axis > 0 ? class_axis : usual;
  return {ClassesFirst(logits, axis), ClassesFirst(Logits(outcome.uncut, name), axis)};
}

std::vector<ValuePair> ValuesAndTargets(const Outcome& outcome, const std::string& name) {
  CheckTargets(outcome, name);
  const auto& targets = outcome.batch.targets;
  if (targets.size() > outcome.outputs.size())
    Fail(ErrorKind::kData, name,
         Str("has ", targets.size(), " targets for ", outcome.outputs.size(), " outputs"));
  std::vector<ValuePair> pairs;
  for (size_t i = 0; i < targets.size(); ++i)
    pairs.push_back(Pair(outcome.outputs[i], targets[i], name, Str("target ", i)));
  return pairs;
}

std::vector<ValuePair> ValuesAndUncut(const Outcome& outcome, const std::string& name) {
  ESPALIER_CHECK(outcome.uncut.size() == outcome.outputs.size(), name,
                 " without the uncut network's outputs");
  std::vector<ValuePair> pairs;
  for (size_t i = 0; i < outcome.uncut.size(); ++i)
    if (outcome.uncut[i].is_floating_point())
      pairs.push_back(
          Pair(outcome.outputs[i], outcome.uncut[i], name, Str("output ", i, " of the uncut one")));
  if (pairs.empty()) Fail(ErrorKind::kModel, name, "needs a floating output; the network has none");
  return pairs;
}

}  // namespace espalier
