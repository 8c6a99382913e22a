#include "env/train/trainer.h"

namespace espalier {

Schema Describe(TrainConfig& config) {
  Schema schema;
  schema.Add("epochs", &config.epochs, "passes over the training samples", {0, 1'000'000})
      .Add("batch_size", &config.batch_size, "samples a step; the last, short batch is left out",
           {1, 1'000'000})
      .Add("optimizer", &config.optimizer, "sgd or adamw (beta 0.9 and 0.999, eps 1e-8)",
           {"sgd", "adamw"})
      .Add("lr", &config.lr, "highest learning rate", {0, 1000})
      .Add("momentum", &config.momentum, "of sgd", {0, 1, false, true})
      .Add("nesterov", &config.nesterov, "Nesterov momentum for sgd; needs momentum > 0")
      .Add("weight_decay", &config.weight_decay, "L2 (sgd) or decoupled (adamw)", {0, 1000})
      .Add("decay_norm_and_bias", &config.decay_norm_and_bias,
           "decay one-dimensional parameters too, as PyTorch does")
      .Add("schedule", &config.schedule, "course of the learning rate",
           {"cosine", "step", "one_cycle", "constant"})
      .Add("milestones", &config.milestones, "step: epochs after which lr is multiplied by gamma")
      .Add("gamma", &config.gamma, "step: factor at a milestone", {0, 1000})
      .Add("warmup_epochs", &config.warmup_epochs,
           "linear rise from lr/100; one_cycle: 0 = 30 % of the epochs", {0, 1'000'000})
      .Add("loss", &config.loss, "empty = the task's; distillation: \"cross_entropy + 0.5 kl\"")
      .Add("label_smoothing", &config.label_smoothing,
           "share of the target spread over all classes", {0, 1})
      .Add("mode", &config.mode,
           "train, or eval: no dropout, and batch norms keep their statistics", {"train", "eval"})
      .Add("ema_decay", &config.ema_decay,
           "moving average of the weights a step, which then is the result; 0 = off",
           {0, 1, false, true})
      .Add("precision", &config.precision, "auto = bf16 when measured faster at the start",
           {"auto", "fp32", "bf16"})
      .Add("channels_last", &config.channels_last, "memory format of images and weights")
      .Add("recorded", &config.recorded,
           "on a GPU, launch a whole step as one recording (a CUDA graph)")
      .Add("limit_batches", &config.limit_batches, "stop each epoch after N batches; 0 = all",
           {0, 1'000'000'000});
  return schema;
}

}  // namespace espalier
