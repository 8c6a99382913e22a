#include "env/graph/pt2_inputs.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/log.h"
#include "env/graph/pt2_arguments.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/sample_inputs.h"
#include "env/graph/torch_pickle.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;

constexpr int64_t kUnknownSize = 2;  // an open size without a hint

int64_t HintOf(const json& expression) {
  const auto hint = expression.find("hint");
  if (hint == expression.end() || hint->is_null()) return kUnknownSize;
  return hint->at("as_int").get<int64_t>();
}

/// True when the expression is a symbol alone.
bool IsPlain(const std::string& expression, const std::vector<std::string>& symbols) {
  return symbols.size() == 1 && Evaluate(expression, {{symbols[0], 5}}) == 5 &&
         Evaluate(expression, {{symbols[0], 7}}) == 7;
}

/// The tensors of (args, kwargs) in the order of the inputs; keywords go by name where they can.
std::vector<Tensor> SamplesOf(const Network& network, const PickleValue& pair) {
  std::vector<Tensor> samples;
  if (pair.kind != PickleValue::Kind::kTuple || pair.items.size() != 2) return samples;
  pair.items[0].CollectTensors(samples);
  const PickleValue& keywords = pair.items[1];
  std::map<std::string, Tensor> by_name;
  for (size_t i = 0; i + 1 < keywords.items.size(); i += 2)
    if (keywords.items[i + 1].kind == PickleValue::Kind::kTensor)
      by_name[keywords.items[i].text] = keywords.items[i + 1].tensor;
  std::vector<Tensor> named;
  for (size_t i = samples.size(); i < network.graph.inputs.size(); ++i) {
    const auto value = static_cast<size_t>(network.graph.inputs[i].value);
    const auto found = by_name.find(network.graph.values[value].name);
    if (found != by_name.end()) named.push_back(found->second);
  }
  if (samples.size() + named.size() == network.graph.inputs.size())
    samples.insert(samples.end(), named.begin(), named.end());
  else
    keywords.CollectTensors(samples);
  return samples;
}

}  // namespace

InputSpec InputOf(const std::string& name, const json& meta, Graph& graph) {
  InputSpec input;
  const auto dtype = DtypeOf(meta.at("dtype").get<int64_t>());
  if (!dtype)
    throw Error(ErrorKind::kModel,
                Str("input '", name, "' has the unsupported dtype ", meta.at("dtype").dump()));
  input.dtype = *dtype;
  for (const json& size : meta.at("sizes")) {
    const bool open = KeyOf(size) == "as_expr";
    std::string expression;
    if (open) {
      expression = size.at("as_expr").at("expr_str").get<std::string>();
      const auto symbols = SymbolsIn(expression);
      if (IsPlain(expression, symbols)) {
        graph.symbols[symbols[0]] = HintOf(size.at("as_expr"));
        if (input.sizes.empty() && graph.batch_symbol.empty()) graph.batch_symbol = symbols[0];
      }
    }
    input.size_expressions.push_back(expression);
    input.sizes.push_back(open ? HintOf(size.at("as_expr")) : size.at("as_int").get<int64_t>());
    if (input.sizes.back() < 0)
      throw Error(ErrorKind::kModel, Str("input '", name, "' has a negative size"));
  }
  const auto first =
      input.sizes.empty() ? std::vector<std::string>() : SymbolsIn(input.size_expressions.front());
  input.dynamic_batch = first.size() == 1 && first.front() == graph.batch_symbol;
  return input;
}

void AttachSamples(Network& network, const std::string& pickle) {
  if (pickle.empty()) return;
  try {
    const Tensor bytes = at::from_blob(const_cast<char*>(pickle.data()),
                                       {static_cast<int64_t>(pickle.size())}, at::kByte);
    const std::vector<Tensor> samples = SamplesOf(network, ReadTorchSave(bytes));
    if (samples.size() != network.graph.inputs.size())
      throw Error(ErrorKind::kModel,
                  Str(samples.size(), " tensors for ", network.graph.inputs.size(), " inputs"));
    std::vector<std::pair<std::string, Tensor>> named;
    for (size_t i = 0; i < samples.size(); ++i) named.emplace_back(Str("in", i), samples[i]);
    Network checked = network;
    SetSampleInputs(checked, named);
    network.graph = std::move(checked.graph);
  } catch (const Error& error) {
    LogWarning("the archive's sample inputs are left out: ", error.message());
  }
}

std::string DataDependentSize(const json& meta) {
  for (const json& size : meta.at("sizes")) {
    if (KeyOf(size) != "as_expr") continue;
    for (const std::string& symbol :
         SymbolsIn(size.at("as_expr").at("expr_str").get<std::string>()))
      if (symbol.size() > 1 && symbol[0] == 'u' &&
          std::isdigit(static_cast<unsigned char>(symbol[1])))
        return symbol;
  }
  return "";
}

}  // namespace espalier::pt2
