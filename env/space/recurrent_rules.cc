#include <ATen/ATen.h>

#include "env/space/label_rules.h"

// LSTM, GRU and plain RNN layers. A hidden unit is a row of every gate, a column of the recurrent
// weight, and a column of the next layer; all layers and directions share one state tensor, so they
// keep equal numbers of units.

namespace espalier {
namespace {

struct Layout {
  int64_t gates;
  bool cell;  // LSTM: the state is a pair
};

/// The hidden units of one cell, whose weights and biases these are (kNoValue: none), the input's
/// weight first: rows of every gate go together.
std::vector<int64_t> UnitsOf(const Call& c, const std::vector<ValueId>& params, int64_t gates) {
  const int64_t hidden = c.t.sizes(params[0])[0] / gates;
  std::vector<int64_t> units;
  for (const ValueId param : params) {
    if (param == kNoValue) continue;
    const auto& rows =
        c.t.StoredAxis(param, 0, MemberRole::kProducer, param == params[0], c.op.module_path);
    if (units.empty())
      for (int64_t i = 0; i < hidden; ++i) units.push_back(rows.first + i);
    for (int64_t i = 0; i < rows.count; ++i)
      c.t.Union(rows.first + i, units[static_cast<size_t>(i % hidden)]);
  }
  return units;
}

void Recurrent(const Call& c, const Layout& layout) {
  const ValueId input = c.op.ValueArg("input");
  const int params_arg = c.op.ArgIndex("params"), state_arg = c.op.ArgIndex("hx");
  if (params_arg < 0 || state_arg < 0) return Opaque(c);  // packed sequences
  const auto& params = std::get<ValueList>(c.op.args[static_cast<size_t>(params_arg)]).ids;
  const bool biased = c.op.Constant("has_biases").toBool();
  const int64_t layers = c.op.Constant("num_layers").toInt();
  const int64_t directions = c.op.Constant("bidirectional").toBool() ? 2 : 1;
  const size_t per_layer = biased ? 4 : 2;
  if (params.size() != static_cast<size_t>(layers * directions) * per_layer)
    return Opaque(c);  // projected states
  for (const ValueId param : params)
    if (!c.t.IsStored(param)) return Opaque(c);
  const std::string& path = c.op.module_path;
  const int64_t last = c.rank(input) - 1;
  std::vector<int64_t> below = c.t.AxisIds(input, last, c.where());
  c.t.AddRead(c.index, c.op.ArgIndex("input"), 0, LabelTracer::Along(c.rank(input), last, below));
  std::vector<int64_t> all;  // hidden units of every layer and direction
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<int64_t> produced;
    for (int64_t direction = 0; direction < directions; ++direction) {
      const size_t base = static_cast<size_t>(layer * directions + direction) * per_layer;
      const ValueId in_weight = params[base], state_weight = params[base + 1];
      const auto first = params.begin() + static_cast<std::ptrdiff_t>(base);
      const std::vector<int64_t> units =
          UnitsOf(c, {first, first + static_cast<std::ptrdiff_t>(per_layer)}, layout.gates);
      Tie(c, below, c.t.StoredAxis(in_weight, 1, MemberRole::kConsumer, false, path));
      Tie(c, units, c.t.StoredAxis(state_weight, 1, MemberRole::kConsumer, false, path));
      // Inside the op a unit is read by these weights' columns: that is where it can be gated.
      c.t.AddRead(c.index, params_arg, static_cast<int32_t>(base) + 1,
                  LabelTracer::Along(2, 1, units));
      if (layer > 0)
        c.t.AddRead(c.index, params_arg, static_cast<int32_t>(base),
                    LabelTracer::Along(2, 1, below));
      produced.insert(produced.end(), units.begin(), units.end());
    }
    all.insert(all.end(), produced.begin(), produced.end());
    below = std::move(produced);
  }
  c.t.AddRuns(all, layers * directions, c.where());
  c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), c.out_rank() - 1, below));
  const auto hidden = static_cast<int64_t>(all.size()) / (layers * directions);
  for (size_t output = 1; output < c.op.outputs.size(); ++output) {
    Tensor states = at::tensor(all, at::kLong).view({layers * directions, hidden});
    while (states.dim() < c.rank(c.op.outputs[output])) states = states.unsqueeze(1);
    c.t.Set(c.op.outputs[output], Compress(states));
  }
  // The initial states have the units' coordinates too.
  std::vector<ValueId> starts;
  if (layout.cell)
    starts = std::get<ValueList>(c.op.args[static_cast<size_t>(state_arg)]).ids;
  else
    starts = {std::get<ValueId>(c.op.args[static_cast<size_t>(state_arg)])};
  for (const ValueId start : starts) {
    Tensor states = at::tensor(all, at::kLong).view({layers * directions, hidden});
    while (states.dim() < c.rank(start)) states = states.unsqueeze(1);
    Meet(c, c.ids(start), c.t.sizes(start), states, c.t.sizes(start));
  }
}

/// One step of one layer: input [N, I] and state [N, H], of an LSTM a pair of states.
void Cell(const Call& c, const Layout& layout) {
  const ValueId input = c.op.ValueArg("input");
  const std::vector<ValueId> params = {c.op.ValueArg("w_ih"), c.op.ValueArg("w_hh"),
                                       c.op.ValueArg("b_ih"), c.op.ValueArg("b_hh")};
  for (const ValueId param : params)
    if (param != kNoValue && !c.t.IsStored(param)) return Opaque(c);
  const std::string& path = c.op.module_path;
  const int64_t last = c.rank(input) - 1;
  const std::vector<int64_t> below = c.t.AxisIds(input, last, c.where());
  c.t.AddRead(c.index, c.op.ArgIndex("input"), 0, LabelTracer::Along(c.rank(input), last, below));
  const std::vector<int64_t> units = UnitsOf(c, params, layout.gates);
  Tie(c, below, c.t.StoredAxis(params[0], 1, MemberRole::kConsumer, false, path));
  Tie(c, units, c.t.StoredAxis(params[1], 1, MemberRole::kConsumer, false, path));
  c.t.AddRead(c.index, c.op.ArgIndex("w_hh"), 0, LabelTracer::Along(2, 1, units));
  const Arg& state = c.op.args[static_cast<size_t>(c.op.ArgIndex("hx"))];
  const std::vector<ValueId> starts =
      layout.cell ? std::get<ValueList>(state).ids : std::vector{std::get<ValueId>(state)};
  for (const ValueId start : starts)
    Meet(c, c.ids(start), c.t.sizes(start), LabelTracer::Along(c.rank(start), last, units),
         c.t.sizes(start));
  for (const ValueId output : c.op.outputs)
    c.t.Set(output, LabelTracer::Along(c.rank(output), last, units));
}

void LstmCell(const Call& c) { Cell(c, {4, true}); }
void GruCell(const Call& c) { Cell(c, {3, false}); }
void RnnCell(const Call& c) { Cell(c, {1, false}); }
void Lstm(const Call& c) { Recurrent(c, {4, true}); }
void Gru(const Call& c) { Recurrent(c, {3, false}); }
void Rnn(const Call& c) { Recurrent(c, {1, false}); }

}  // namespace

void AddRecurrentRules(LabelRules& rules) {
  AddRules(rules, Lstm, "lstm");
  AddRules(rules, Gru, "gru");
  AddRules(rules, Rnn, "rnn_tanh rnn_relu");
  AddRules(rules, LstmCell, "lstm_cell");
  AddRules(rules, GruCell, "gru_cell");
  AddRules(rules, RnnCell, "rnn_tanh_cell rnn_relu_cell");
}

}  // namespace espalier
