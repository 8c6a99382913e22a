#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/files.h"
#include "env/graph/archive_writer.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_networks.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kModel = "models/model.json";
constexpr const char* kWeights = "data/weights/model_weights_config.json";

std::vector<Tensor> RunOn(const Network& network, const std::vector<Tensor>& inputs) {
  const at::NoGradGuard no_grad;
  const Executor executor(network.graph);
  return executor.Run(executor.Bind(network.store), inputs);
}

/// Same ops, names and stored tensors, and bit-identical outputs at two batch sizes.
void ExpectSame(const Network& a, const Network& b) {
  const auto state_dict = [](const ParameterStore& store) {
    std::vector<std::string> list = store.names();
    std::erase_if(list, [&](const auto& n) { return store.Kind(n) == StoreKind::kConstant; });
    return list;
  };
  EXPECT_EQ(state_dict(a.store), state_dict(b.store));
  EXPECT_EQ(a.WeightsHash(), b.WeightsHash());
  ASSERT_EQ(a.graph.ops.size(), b.graph.ops.size());
  const auto names = [](const Graph& graph, const std::vector<ValueId>& ids) {
    std::vector<std::string> list;
    for (const ValueId id : ids) list.push_back(graph.values[static_cast<size_t>(id)].name);
    return list;
  };
  for (size_t i = 0; i < a.graph.ops.size(); ++i) {
    const Op &left = a.graph.ops[i], &right = b.graph.ops[i];
    EXPECT_EQ(left.target(), right.target()) << left.name;
    EXPECT_EQ(left.module_path, right.module_path) << left.name;
    EXPECT_EQ(names(a.graph, left.outputs), names(b.graph, right.outputs)) << left.name;
  }
  for (const int64_t batch : {2, 3}) {
    std::vector<Tensor> inputs = SampleInputs(a, batch);
    for (Tensor& input : inputs)
      if (input.is_floating_point()) input.normal_();
    const auto left = RunOn(a, inputs), right = RunOn(b, inputs);
    ASSERT_EQ(left.size(), right.size());
    for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(at::equal(left[i], right[i]));
  }
}

TEST(Pt2Unit, RoundTripOfABuiltConvNet) {
  const TempFolder folder;
  const Network net = SmallConvNet();
  WritePt2(folder / "small.pt2", net);
  const Network read = ReadPt2(folder / "small.pt2");
  EXPECT_EQ(read.name, "small");
  ExpectSame(net, read);
  for (size_t i = 0; i < net.graph.ops.size(); ++i)  // a type that was given survives
    EXPECT_TRUE(net.graph.ops[i].module_type.empty() ||
                read.graph.ops[i].module_type == net.graph.ops[i].module_type);
  EXPECT_TRUE(read.graph.inputs.at(0).dynamic_batch);
  EXPECT_EQ(read.graph.inputs.at(0).sizes, (std::vector<int64_t>{2, 3, 16, 16}));
}

TEST(Pt2Unit, RoundTripOfListsIntegersTiesAndConstants) {
  const TempFolder folder;
  const Network net = ManyKindsNet();
  WritePt2(folder / "kinds.pt2", net);
  const Network read = ReadPt2(folder / "kinds.pt2");
  ExpectSame(net, read);
  EXPECT_EQ(read.store.Canonical("head.weight"), "embed.weight");
  EXPECT_EQ(read.store.Kind("mask"), StoreKind::kConstant);
  const ValueId mask = read.graph.FindStored("mask");
  EXPECT_EQ(read.graph.values[static_cast<size_t>(mask)].kind, ValueKind::kBuffer);
  // Reading what was read and written again changes nothing more.
  WritePt2(folder / "again.pt2", read);
  ExpectSame(net, ReadPt2(folder / "again.pt2"));
}

TEST(Pt2Unit, ExtraFilesAreCarriedThrough) {
  const TempFolder folder;
  Network net = SmallConvNet();
  net.extras["extra/notes.txt"] = "kept";
  WritePt2(folder / "a.pt2", net);
  EXPECT_EQ(ReadPt2(folder / "a.pt2").extras.at("extra/notes.txt"), "kept");
}

TEST(Pt2Unit, FixedBatchStaysFixed) {
  const TempFolder folder;
  Builder b("fixed", 1);
  const ValueId x = b.Input("x", {4, 3});
  Network net = b.Finish({b.Linear("fc", x, 3, 2)});
  net.graph.inputs[0].dynamic_batch = false;
  WritePt2(folder / "a.pt2", net);
  const Network read = ReadPt2(folder / "a.pt2");
  EXPECT_FALSE(read.graph.inputs[0].dynamic_batch);
  EXPECT_EQ(read.graph.inputs[0].sizes, (std::vector<int64_t>{4, 3}));
}

TEST(Pt2Unit, EqualNetworksGiveEqualBytes) {
  const TempFolder folder;
  WritePt2(folder / "a.pt2", SmallConvNet());
  WritePt2(folder / "b.pt2", SmallConvNet());
  EXPECT_EQ(ReadFile(folder / "a.pt2"), ReadFile(folder / "b.pt2"));
}

TEST(Pt2Unit, SizesThatAreNoLineInTheBatchAreRefused) {
  const TempFolder folder;
  Builder b("outer", 1);
  const ValueId x = b.Input("x", {2, 3});
  const ValueId t = b.Call("aten::t", "", {{"self", x}});
  const ValueId y = b.Call("aten::matmul", "", {{"self", x}, {"other", t}});  // [b, b]
  const Network net = b.Finish({b.Flatten(y, 0)});                            // [b * b]
  EXPECT_THAT(ModelErrorOf([&] { WritePt2(folder / "a.pt2", net); }),
              AllOf(HasSubstr("no linear function"), HasSubstr("4, 9, 25")));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.pt2"));
}

// ---- files that lie ----

/// A good archive whose entries a test can spoil.
class SpoiltArchive {
 public:
  SpoiltArchive() {
    WritePt2(folder_ / "good.pt2", SmallConvNet());
    caffe2::serialize::PyTorchStreamReader reader((folder_ / "good.pt2").string());
    for (const std::string& name : reader.getAllRecords()) {
      if (name.starts_with(".data/")) continue;
      const auto [data, size] = reader.getRecord(name);
      entries[name] = std::string(static_cast<const char*>(data.get()), size);
    }
  }
  /// Changes one JSON entry.
  template <typename Change>
  void Edit(const std::string& entry, const Change& change) {
    json document = json::parse(entries.at(entry));
    change(document);
    entries[entry] = document.dump();
  }
  /// The first node with this target.
  static json& Node(json& model, const std::string& target) {
    for (json& node : model["graph_module"]["graph"]["nodes"])
      if (node["target"] == target) return node;
    throw std::runtime_error("no such node");
  }
  static json& NodeArg(json& node, const std::string& name) {
    for (json& input : node["inputs"])
      if (input["name"] == name) return input["arg"];
    throw std::runtime_error("no such argument");
  }
  Network Read() {
    WriteArchive(folder_ / "bad.pt2", [&](caffe2::serialize::PyTorchStreamWriter& writer) {
      for (const auto& [name, bytes] : entries)
        writer.writeRecord(name, bytes.data(), bytes.size());
    });
    return ReadPt2(folder_ / "bad.pt2");
  }
  std::string ReadError() {
    const std::string error = ModelErrorOf([&] { Read(); });
    EXPECT_THAT(error, HasSubstr("bad.pt2"));
    return error;
  }
  const TempFolder& folder() const { return folder_; }
  std::map<std::string, std::string> entries;

 private:
  TempFolder folder_;
};

TEST(Pt2Unit, NumbersStandForTensorsAsInPython) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {  // relu(x) becomes x * 0.5, as torch.export writes it
    json& node = SpoiltArchive::Node(model, "torch.ops.aten.relu.default");
    node["target"] = "torch.ops.aten.mul.Tensor";
    node["inputs"].push_back({{"name", "other"}, {"arg", {{"as_float", 0.5}}}, {"kind", 1}});
  });
  const Network read = archive.Read();
  const Tensor x = at::randn({2, 3, 16, 16});
  EXPECT_FALSE(at::equal(Forward(read, x), Forward(SmallConvNet(), x)));
  WritePt2(archive.folder() / "again.pt2", read);
  EXPECT_TRUE(at::equal(Forward(ReadPt2(archive.folder() / "again.pt2"), x), Forward(read, x)));
}

TEST(Pt2HostileUnit, UnknownOperatorsNameTargetAndModule) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {
    SpoiltArchive::Node(model, "torch.ops.aten.conv2d.default")["target"] =
        "torch.ops.mylib.conv.default";
  });
  EXPECT_THAT(archive.ReadError(), AllOf(HasSubstr("torch.ops.mylib.conv.default"),
                                         HasSubstr("at 'conv1'"), HasSubstr(kModel)));
}

TEST(Pt2HostileUnit, SubGraphsAreRefusedWithTheirPlace) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {
    SpoiltArchive::Node(model, "torch.ops.aten.linear.default")["target"] =
        "torch.ops.higher_order.cond";
  });
  EXPECT_THAT(archive.ReadError(), AllOf(HasSubstr("at 'fc'"), HasSubstr("sub-graphs")));
}

TEST(Pt2HostileUnit, BadArgumentsNameOperatorAndArgument) {
  const auto with_weight = [](const json& value) {
    SpoiltArchive archive;
    archive.Edit(kModel, [&](json& model) {
      json& node = SpoiltArchive::Node(model, "torch.ops.aten.conv2d.default");
      SpoiltArchive::NodeArg(node, "weight") = value;
    });
    const std::string error = archive.ReadError();
    EXPECT_THAT(error, AllOf(HasSubstr("conv2d"), HasSubstr("'weight'"), HasSubstr("at 'conv1'")));
    return error;
  };
  EXPECT_THAT(with_weight({{"as_tensor", {{"name", "nobody"}}}}), HasSubstr("'nobody'"));
  EXPECT_THAT(with_weight({{"as_string", "w"}}), HasSubstr("the schema takes Tensor"));
  EXPECT_THAT(with_weight({{"as_graph", {{"name", "g"}}}}), HasSubstr("'as_graph'"));
  EXPECT_THAT(with_weight(json::array()), HasSubstr("union"));
  EXPECT_THAT(with_weight({{"as_tensor", 7}}), HasSubstr("json"));
  EXPECT_THAT(with_weight({{"as_scalar_type", 99}}), HasSubstr("unknown dtype 99"));
}

TEST(Pt2HostileUnit, MissingAndUnknownArgumentsAreErrors) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {
    SpoiltArchive::Node(model, "torch.ops.aten.linear.default")["inputs"].erase(1);
  });
  EXPECT_THAT(archive.ReadError(), HasSubstr("'weight' is missing"));
  SpoiltArchive other;
  other.Edit(kModel, [](json& model) {
    SpoiltArchive::Node(model, "torch.ops.aten.linear.default")["inputs"][1]["name"] = "wieght";
  });
  EXPECT_THAT(other.ReadError(), HasSubstr("no argument 'wieght'"));
}

TEST(Pt2HostileUnit, ValuesMustBeDefinedOnceAndBeforeUse) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {
    json& nodes = model["graph_module"]["graph"]["nodes"];
    std::swap(nodes[0], nodes[1]);
  });
  EXPECT_THAT(archive.ReadError(), HasSubstr("not defined before"));
  SpoiltArchive other;
  other.Edit(kModel, [](json& model) {
    json& nodes = model["graph_module"]["graph"]["nodes"];
    nodes.push_back(nodes[0]);
  });
  EXPECT_THAT(other.ReadError(), HasSubstr("defined twice"));
}

TEST(Pt2HostileUnit, BrokenJsonAndVersions) {
  SpoiltArchive archive;
  archive.entries[kModel].resize(archive.entries[kModel].size() / 2);
  EXPECT_THAT(archive.ReadError(), AllOf(HasSubstr(kModel), HasSubstr("parse error")));
  archive.entries[kModel] = std::string(100000, '[');
  EXPECT_THAT(archive.ReadError(), HasSubstr("nested deeper"));
  archive.entries[kModel] = "{}";
  EXPECT_THAT(archive.ReadError(), HasSubstr("schema_version"));
  archive.entries[kModel] = R"({"schema_version": {"major": 9}})";
  EXPECT_THAT(archive.ReadError(), HasSubstr("schema version 9"));
  archive.entries.erase(kModel);
  EXPECT_THAT(archive.ReadError(), HasSubstr("it is missing"));
}

TEST(Pt2HostileUnit, WeightsMustFitTheirRecord) {
  const auto with_meta = [](const char* key, const json& value) {
    SpoiltArchive archive;
    archive.Edit(kWeights, [&](json& config) {
      config["config"]["conv1.weight"]["tensor_meta"][key] = value;  // 8 x 3 x 3 x 3 floats
    });
    const std::string error = archive.ReadError();
    EXPECT_THAT(error, AllOf(HasSubstr(kWeights), HasSubstr("'conv1.weight'")));
    return error;
  };
  const auto ints = [](std::vector<int64_t> values) {
    json list = json::array();
    for (const int64_t value : values) list.push_back({{"as_int", value}});
    return list;
  };
  EXPECT_THAT(with_meta("strides", ints({1000, 9, 3, 1})), HasSubstr("reach element 7026"));
  EXPECT_THAT(with_meta("strides", ints({0, 0, 0, -1})), HasSubstr(">= 0"));
  EXPECT_THAT(with_meta("strides", ints({27, 9})), HasSubstr("4 sizes and 2 strides"));
  EXPECT_THAT(with_meta("sizes", ints({8, 3, 3, 4})), HasSubstr("its record has 216"));
  EXPECT_THAT(with_meta("sizes", ints({8, 3, 3, 1ll << 62})), HasSubstr("overflow"));
  EXPECT_THAT(with_meta("storage_offset", {{"as_int", 1}}), HasSubstr("reach element 216"));
  EXPECT_THAT(with_meta("dtype", 8), HasSubstr("its record has 108"));
  EXPECT_THAT(with_meta("dtype", 99), HasSubstr("dtype 99"));
  EXPECT_THAT(with_meta("layout", 1), HasSubstr("not strided"));
  SpoiltArchive expanded;  // stride 0 would make a huge tensor out of a small record
  expanded.Edit(kWeights, [&](json& config) {
    json& meta = config["config"]["conv1.weight"]["tensor_meta"];
    meta["sizes"] = ints({1ll << 40});
    meta["strides"] = ints({0});
  });
  EXPECT_THAT(expanded.ReadError(), HasSubstr("overlap"));
}

TEST(Pt2HostileUnit, RecordsMustBeThereAndBeTensors) {
  SpoiltArchive archive;
  archive.entries.erase("data/weights/weight_0");
  EXPECT_THAT(archive.ReadError(), HasSubstr("data/weights/weight_0"));
  SpoiltArchive pickled;
  pickled.Edit(kWeights,
               [](json& config) { config["config"]["conv1.weight"]["use_pickle"] = true; });
  EXPECT_THAT(pickled.ReadError(), AllOf(HasSubstr("'conv1.weight'"), HasSubstr("pickle")));
  SpoiltArchive legacy;
  legacy.entries.erase(kWeights);
  legacy.entries["data/weights/model.pt"] = "?";
  EXPECT_THAT(legacy.ReadError(), AllOf(HasSubstr("model.pt"), HasSubstr("pickle")));
  SpoiltArchive unlisted;
  unlisted.Edit(kWeights, [](json& config) { config["config"].erase("conv1.weight"); });
  EXPECT_THAT(unlisted.ReadError(), HasSubstr("'conv1.weight'"));
}

TEST(Pt2HostileUnit, ErrorsOfOutputsNameTheFileToo) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {
    model["graph_module"]["signature"]["output_specs"][0]["user_output"]["arg"] = {
        {"as_tensor", {{"name", "nobody"}}}};
  });
  EXPECT_THAT(archive.ReadError(), AllOf(HasSubstr("'nobody'"), HasSubstr(kModel)));
}

TEST(Pt2HostileUnit, OperatorsThatTouchFilesAreRefused) {
  SpoiltArchive archive;
  const std::string file = (archive.folder() / "made.bin").string();
  archive.Edit(kModel, [&](json& model) {
    json& node = SpoiltArchive::Node(model, "torch.ops.aten.relu.default");
    node["target"] = "torch.ops.aten.from_file.default";
    node["inputs"] = {{{"name", "filename"}, {"arg", {{"as_string", file}}}, {"kind", 1}},
                      {{"name", "shared"}, {"arg", {{"as_bool", true}}}, {"kind", 1}},
                      {{"name", "size"}, {"arg", {{"as_int", 16}}}, {"kind", 1}}};
  });
  EXPECT_THAT(archive.ReadError(), AllOf(HasSubstr("aten::from_file"), HasSubstr("may not")));
}

TEST(Pt2HostileUnit, TrainingExportsAreRefused) {
  SpoiltArchive archive;
  archive.Edit(kModel, [](json& model) {
    model["graph_module"]["signature"]["output_specs"][0] = {
        {"buffer_mutation", {{"arg", {{"name", "add"}}}, {"buffer_name", "n"}}}};
  });
  EXPECT_THAT(archive.ReadError(), AllOf(HasSubstr("buffer_mutation"), HasSubstr("eval")));
}

TEST(Pt2HostileProperty, TruncatedAndFlippedArchivesNeverCrash) {
  const TempFolder folder;
  WritePt2(folder / "good.pt2", SmallConvNet());
  const std::string good = ReadFile(folder / "good.pt2");
  for (size_t i = 0; i < 40; ++i) {
    WriteBytes(folder / "bad.pt2", good.substr(0, good.size() * i / 40));
    EXPECT_THAT(ModelErrorOf([&] { ReadPt2(folder / "bad.pt2"); }), HasSubstr("bad.pt2")) << i;
  }
  for (size_t i = 0; i < 200; ++i) {  // one byte changed: an error or a network, nothing else
    std::string bytes = good;
    bytes[bytes.size() * i / 200] ^= static_cast<char>(1 + i % 255);
    WriteBytes(folder / "bad.pt2", bytes);
    try {
      ReadPt2(folder / "bad.pt2");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kModel) << i;
      EXPECT_THAT(error.message(), HasSubstr("bad.pt2")) << i;
    }
  }
}

TEST(Pt2HostileUnit, MissingFileIsAnIoError) {
  try {
    ReadPt2("/nonexistent/net.pt2");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
  }
}

}  // namespace
}  // namespace espalier
