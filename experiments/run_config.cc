#include "experiments/run_config.h"

#include "env/base/error.h"
#include "env/base/registry.h"

namespace espalier {

Schema Describe(SpaceConfig& config) {
  return Schema()
      .Add("decouple_residuals", &config.decouple_residuals,
           "separate residual branches from their trunk: the trunk keeps its width")
      .Add("exclude", &config.exclude, "module paths that are not cut; * stands for any text")
      .Add("attention", &config.attention,
           "what of an attention can go: dims of its heads, whole heads, or both as groups of one "
           "space",
           {"dims", "heads", "both"})
      .Add("depth", &config.depth,
           "whole residual branches can go too: groups of one unit that may keep none");
}

SpaceOptions ToOptions(const SpaceConfig& config) {
  return {.decouple_residuals = config.decouple_residuals,
          .exclude = config.exclude,
          .attention = config.attention,
          .depth = config.depth};
}

Schema Describe(ControlsConfig& config) {
  return Schema().Add("strategies", &config.strategies,
                      "strategies run with their defaults at the same budget, for comparison");
}

namespace {

std::string Where(const ConfigSection& section, const std::string& key, const std::string& help) {
  return Str("\n  --> ", section.Origin(key), help.empty() ? "" : "\n  help: ", help);
}

void ReadStrategy(const ConfigDocument& document, RunConfig& config,
                  std::vector<std::string>& problems) {
  const auto section = document.Section("strategy");
  const auto& registry = Registry<Strategy>::Global();
  const auto name = section.Has("name") ? section.GetString("name") : std::nullopt;
  if (!name) {
    problems.push_back(Str("config key 'strategy.name' is missing\n  --> ", config.path.string(),
                           "\n  help: ", SuggestName("", registry.Names())));
    return;
  }
  config.strategy_name = *name;
  const auto* entry = registry.Find(*name);
  if (!entry) {
    problems.push_back(Str("unknown strategy '", *name, "'",
                           Where(section, "name", SuggestName(*name, registry.Names()))));
    return;
  }
  config.strategy = entry->create(section, problems);
}

void CheckControls(const ConfigDocument& document, const RunConfig& config,
                   std::vector<std::string>& problems) {
  const auto& registry = Registry<Strategy>::Global();
  for (const auto& name : config.controls.strategies)
    if (!registry.Find(name))
      problems.push_back(Str(
          "unknown strategy '", name, "'",
          Where(document.Section("controls"), "strategies", SuggestName(name, registry.Names()))));
}

std::string Resolve(const ConfigDocument& document, RunConfig& config) {
  const auto dump = [&](const std::string& name, auto& part) {
    return DumpToml(name, Describe(part), document.Section(name)) + "\n";
  };
  const auto strategy = document.Section("strategy");
  return dump("model", config.model) + dump("data", config.data) + dump("task", config.task) +
         dump("budget", config.budget) + dump("latency", config.latency) +
         dump("space", config.space) + dump("sparsify", config.sparsify) +
         Registry<Strategy>::Global().Get("strategy", config.strategy_name).dump(strategy) + "\n" +
         dump("refine", config.refine) + dump("finetune", config.finetune) +
         dump("controls", config.controls) + dump("run", config.run);
}

}  // namespace

RunConfig LoadRunConfig(const std::filesystem::path& path,
                        const std::vector<std::string>& overrides) {
  const auto document = ConfigDocument::Load(path, overrides);
  RunConfig config;
  config.path = path;
  config.finetune.epochs = 0;
  std::vector<std::string> problems;
  document.CheckSections({"model", "data", "task", "budget", "latency", "space", "sparsify",
                          "strategy", "refine", "finetune", "controls", "run"},
                         problems);
  ReadModelSection(document, config.model, problems);
  ReadSection(document, "data", config.data, problems);
  ReadSection(document, "task", config.task, problems);
  ReadSection(document, "budget", config.budget, problems);
  ReadSection(document, "latency", config.latency, problems);
  ReadSection(document, "space", config.space, problems);
  ReadSection(document, "sparsify", config.sparsify, problems);
  if (const auto section = document.Section("sparsify");
      !section.keys().empty() && !section.Has("epochs"))
    problems.push_back(Str("config key 'sparsify.epochs' is missing\n  --> ",
                           section.Origin(section.keys().front()),
                           "\n  help: epochs = 0 leaves the network as it is"));
  ReadStrategy(document, config, problems);
  ReadSection(document, "refine", config.refine, problems);
  ReadSection(document, "finetune", config.finetune, problems);
  ReadSection(document, "controls", config.controls, problems);
  ReadSection(document, "run", config.run, problems);
  CheckControls(document, config, problems);
  ThrowIfProblems(problems);
  config.resolved_toml = Resolve(document, config);
  return config;
}

}  // namespace espalier
