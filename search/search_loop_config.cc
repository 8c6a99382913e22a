#include "search/search_loop.h"

namespace espalier {

Schema Describe(SearchLoopConfig& config) {
  Schema schema;
  schema.Add("evaluations", &config.evaluations, "candidates, in whole evaluations", {.low = 1});
  schema.Add("samples", &config.samples, "validation samples of a whole evaluation; 0 = all",
             {.low = 0});
  schema.Add("criterion", &config.criterion,
             "which units a ratio keeps: NAME or NAME(key=value, ...); `espalier list criteria`");
  schema.Add("precision", &config.precision, "of candidate evaluation; bf16 ranks as well, faster",
             {"fp32", "bf16"});
  schema.Add(
      "masked", &config.masked,
      "evaluate at full width with zeros for what is cut: one recording (a CUDA graph) serves "
      "all candidates");
  schema.Add(
      "compensate_batches", &config.compensate_batches,
      "training batches of 128 that a candidate's layers are fitted to the uncut network on, "
      "in closed form, before it is evaluated; slower, and nearer to what refinement gives",
      {.low = 0});
  schema.Add("recalibrate_batches", &config.recalibrate_batches,
             "training batches that re-estimate a candidate's batch norms before it is evaluated; "
             "slower, and nearer to what fine-tuning gives",
             {.low = 0});
  schema.Add("finetune_batches", &config.finetune_batches,
             "training batches of 128 that a candidate is fine-tuned on before it is evaluated; "
             "much slower, and nearest to what fine-tuning gives",
             {.low = 0});
  schema.Add("finetune_lr", &config.finetune_lr, "learning rate of it, with momentum 0.9",
             RealRange{.low = 0, .high = 1000});
  schema.Add("fidelity", &config.fidelity,
             "what a part of an evaluation has less of: samples, or batches of the above",
             {"samples", "recalibration", "finetune"});
  schema.Add("race", &config.race, "drop clear losers of a batch early");
  schema.Add("race_error", &config.race_error,
             "chance to drop a candidate that is as good as those it is compared with",
             RealRange{.low = 0, .high = 1, .open_low = true, .open_high = true});
  schema.Add("race_first", &config.race_first, "samples before the first decision", {.low = 1});
  schema.Add("batch_size", &config.batch_size, "samples in one forward", {.low = 1});
  schema.Add(
      "threads", &config.threads,
      "of each worker inside an operator; 0 = by a short measurement, 1 where workers are set",
      IntRange{.low = 0});
  schema.Add("workers", &config.workers,
             "that evaluate side by side; 0 = by a short measurement, or as many as fit",
             {.low = 0});
  schema.Add("enqueue", &config.enqueue,
             "keep ratios to try first: \"0.5\" for all groups, or one a group with commas");
  schema.Add("warm_start", &config.warm_start, "trials.jsonl of another search to learn from");
  schema.Add("warm_points", &config.warm_points, "how many of its best candidates to try first",
             {.low = 1});
  return schema;
}

}  // namespace espalier
