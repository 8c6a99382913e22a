#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/graph/archive_writer.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using nlohmann::json;
using Entries = std::map<std::string, std::string>;

constexpr const char* kModel = "models/model.json";
constexpr const char* kWeights = "data/weights/model_weights_config.json";

Entries EntriesOf(const std::filesystem::path& path) {
  Entries entries;
  caffe2::serialize::PyTorchStreamReader reader(path.string());
  for (const std::string& name : reader.getAllRecords()) {
    if (name.starts_with(".data/")) continue;
    const auto [data, size] = reader.getRecord(name);
    entries[name] = std::string(static_cast<const char*>(data.get()), size);
  }
  return entries;
}

void WriteEntries(const std::filesystem::path& path, const Entries& entries) {
  WriteArchive(path, [&](caffe2::serialize::PyTorchStreamWriter& writer) {
    for (const auto& [name, bytes] : entries) writer.writeRecord(name, bytes.data(), bytes.size());
  });
}

/// linear 3 -> 8, relu, view [-1, 2, 4], sum over axis 1, linear 4 -> 2; an archive of it with what
/// other writers put there: another symbol, stack traces, guards, a frozen weight, an assertion.
void WriteForeign(const std::filesystem::path& path) {
  Builder b("net", 3);
  const auto ints = [](std::initializer_list<int64_t> items) {
    return c10::IValue(c10::List<int64_t>(items));
  };
  ValueId x = b.Relu(b.Linear("first", b.Input("x", {2, 3}), 3, 8));
  x = b.Call("aten::view", "", {{"self", x}, {"size", ints({-1, 2, 4})}});
  x = b.Call("aten::sum", "dim_IntList", {{"self", x}, {"dim", ints({1})}});
  WritePt2(path, b.Finish({b.Linear("second", x, 4, 2)}));
  Entries entries = EntriesOf(path);
  std::string text = entries[kModel];
  for (size_t at = 0; (at = text.find("Symbol('b'", at)) != std::string::npos;)
    text.replace(at, 10, "Symbol('s77'");
  json model = json::parse(text);
  model["range_constraints"] = {{"s77", {{"min_val", 1}, {"max_val", 64}}}};
  model["guards_code"] = {"L['x'].size()[1] == 3"};
  model["torch_version"] = "2.99";
  json& nodes = model["graph_module"]["graph"]["nodes"];
  for (json& node : nodes) node["metadata"]["stack_trace"] = "forward, line 7";
  json check = nodes[0];
  check["target"] = "torch.ops.aten._assert_tensor_metadata.default";
  check["name"] = "check";
  check["inputs"] = {{{"name", "a"}, {"arg", {{"as_tensor", {{"name", "x"}}}}}, {"kind", 1}}};
  check["outputs"] = json::array();
  nodes.insert(nodes.begin(), check);
  entries[kModel] = model.dump();
  json config = json::parse(entries[kWeights]);
  config["config"]["first.weight"]["tensor_meta"]["requires_grad"] = false;
  entries[kWeights] = config.dump();
  entries["extra/notes.txt"] = "kept";
  WriteEntries(path, entries);
}

TEST(Pt2PatchUnit, ReadAndWrittenUnchangedEveryEntryIsEqual) {
  const TempFolder folder;
  WriteForeign(folder / "a.pt2");
  WritePt2(folder / "b.pt2", ReadPt2(folder / "a.pt2"));
  const Entries before = EntriesOf(folder / "a.pt2"), after = EntriesOf(folder / "b.pt2");
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, bytes] : before) {
    if (name.ends_with(".json"))
      EXPECT_EQ(json::parse(bytes), json::parse(after.at(name))) << name;
    else
      EXPECT_EQ(bytes, after.at(name)) << name;
  }
}

TEST(Pt2PatchUnit, OnlyWhatFollowsFromACutChanges) {
  const TempFolder folder;
  WriteForeign(folder / "a.pt2");
  Network net = ReadPt2(folder / "a.pt2");
  // Rows 0, 1, 4, 5 of the first layer stay: 2 blocks of 2.
  const Tensor kept = at::tensor({0, 1, 4, 5}, at::kLong);
  for (const char* name : {"first.weight", "first.bias"})
    net.store.Set(name, net.store.Get(name).index_select(0, kept));
  net.store.Set("second.weight", net.store.Get("second.weight").narrow(1, 0, 2).contiguous());
  for (Op& op : net.graph.ops)
    if (op.target() == "aten::view") op.args[1] = c10::IValue(c10::List<int64_t>({-1, 2, 2}));
  WritePt2(folder / "b.pt2", net);
  json before = json::parse(EntriesOf(folder / "a.pt2")[kModel]);
  json after = json::parse(EntriesOf(folder / "b.pt2")[kModel]);
  const auto tensors = [](json& model) -> json& {
    return model["graph_module"]["graph"]["tensor_values"];
  };
  EXPECT_EQ(tensors(after)["view"]["sizes"][2], (json{{"as_int", 2}}));
  EXPECT_EQ(tensors(after)["view"]["sizes"][0], tensors(before)["view"]["sizes"][0]);  // still open
  EXPECT_EQ(tensors(after)["view"]["strides"][0], (json{{"as_int", 4}}));
  EXPECT_EQ(tensors(after)["p_first_weight"]["sizes"][0], (json{{"as_int", 4}}));
  for (json* model : {&before, &after}) {
    tensors(*model).clear();
    for (json& node : (*model)["graph_module"]["graph"]["nodes"])
      if (node["name"] == "view") node["inputs"].clear();
  }
  EXPECT_EQ(before, after);  // metadata, symbols, guards, the assertion: as they were
  const Network read = ReadPt2(folder / "b.pt2");
  const Tensor x = at::randn({5, 3});
  EXPECT_TRUE(at::equal(Forward(read, x), Forward(net, x)));
}

TEST(Pt2PatchUnit, AddedBuffersAndOtherOperatorsAreWritten) {
  const TempFolder folder;
  WriteForeign(folder / "a.pt2");
  Network net = ReadPt2(folder / "a.pt2");
  net.store.Add("first.order", at::tensor({7, 6, 5, 4, 3, 2, 1, 0}, at::kLong), StoreKind::kBuffer);
  net.graph.values.push_back({"b_first_order", ValueKind::kBuffer, "first.order", -1});
  const auto order = static_cast<ValueId>(net.graph.values.size() - 1);
  for (Op& op : net.graph.ops)
    if (op.target() == "aten::relu") {
      op.handle = FindOperator("aten::index_select", "");
      op.args = {op.args[0], c10::IValue(1), order};
    }
  WritePt2(folder / "b.pt2", net);
  const json model = json::parse(EntriesOf(folder / "b.pt2")[kModel]);
  const json& specs = model["graph_module"]["signature"]["input_specs"];
  const json& inputs = model["graph_module"]["graph"]["inputs"];
  ASSERT_EQ(specs.size(), inputs.size());
  const json& added = specs[specs.size() - 2];  // before the only input of the user
  ASSERT_TRUE(added.is_object()) << added.dump();
  EXPECT_EQ(added["buffer"]["buffer_name"], "first.order");
  EXPECT_EQ(inputs[specs.size() - 2], (json{{"as_tensor", {{"name", "b_first_order"}}}}));
  const Network read = ReadPt2(folder / "b.pt2");
  const Tensor x = at::randn({5, 3});
  EXPECT_TRUE(at::equal(Forward(read, x), Forward(net, x)));
}

TEST(Pt2PatchUnit, ViewsOfOneRecordStayTogetherUntilTheyChange) {
  const TempFolder folder;
  WriteForeign(folder / "a.pt2");
  Entries entries = EntriesOf(folder / "a.pt2");
  json config = json::parse(entries[kWeights]);
  // The bias becomes the first column of the weight: same record, stride 3.
  json& bias = config["config"]["first.bias"];
  const std::string freed = bias["path_name"];
  bias["path_name"] = config["config"]["first.weight"]["path_name"];
  bias["tensor_meta"]["strides"] = {{{"as_int", 3}}};
  entries[kWeights] = config.dump();
  entries.erase("data/weights/" + freed);
  WriteEntries(folder / "a.pt2", entries);
  Network net = ReadPt2(folder / "a.pt2");
  WritePt2(folder / "b.pt2", net);
  EXPECT_EQ(json::parse(EntriesOf(folder / "b.pt2")[kWeights]), config);
  net.store.Set("first.bias", at::ones({8}));
  WritePt2(folder / "c.pt2", net);
  const Network read = ReadPt2(folder / "c.pt2");
  EXPECT_TRUE(at::equal(read.store.Get("first.bias"), at::ones({8})));
  EXPECT_TRUE(at::equal(read.store.Get("first.weight"), net.store.Get("first.weight")));
}

}  // namespace
}  // namespace espalier
