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

void Recurrent(const Call& c, const Layout& layout) {
  const ValueId input = c.op.ValueArg("input");
  const int params_arg = c.op.ArgIndex("params"), state_arg = c.op.ArgIndex("hx");
  if (params_arg < 0 || state_arg < 0) return Opaque(c);  // packed sequences, cells
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
      const int64_t hidden = c.t.sizes(in_weight)[0] / layout.gates;
      std::vector<int64_t> units;
      for (size_t p = base; p < base + per_layer; ++p) {
        const auto& rows = c.t.StoredAxis(params[p], 0, MemberRole::kProducer, p == base, path);
        if (p == base)
          for (int64_t i = 0; i < hidden; ++i) units.push_back(rows.first + i);
        for (int64_t i = 0; i < rows.count; ++i)
          c.t.Union(rows.first + i, units[static_cast<size_t>(i % hidden)]);
      }
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

void Lstm(const Call& c) { Recurrent(c, {4, true}); }
void Gru(const Call& c) { Recurrent(c, {3, false}); }
void Rnn(const Call& c) { Recurrent(c, {1, false}); }

}  // namespace

void AddRecurrentRules(LabelRules& rules) {
  rules["aten::lstm"] = Lstm;
  rules["aten::gru"] = Gru;
  rules["aten::rnn_tanh"] = Rnn;
  rules["aten::rnn_relu"] = Rnn;
}

}  // namespace espalier
