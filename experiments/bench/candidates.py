#!/usr/bin/env python3
"""Evaluating random cuts of ResNet-56 at half its MACs: Espalier beside the usual loop in PyTorch
(deepcopy, Torch-Pruning, evaluate), in one run. Prints a table and writes
experiments/results/candidates.json.

  .venv/bin/pip install torch-pruning==1.6.1
  ninja -C build espalier-bench && scripts/data cifar10
  .venv/bin/python experiments/bench/candidates.py --weights resnet56_cifar10.safetensors
Run it on an otherwise idle machine. The loop in PyTorch cuts the same network with projection shortcuts
(Torch-Pruning cannot follow zero padding), to the same share of MACs, and is timed on a few
candidates. "Best" is the best by full evaluation in fp32.
"""
import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from bench import ROOT, Block, Espalier, Resnet56


class Projection(Block):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.shortcut = nn.Sequential() if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def projection_resnet56():
    net = Resnet56()
    widths = [16] + [16] * 9 + [32] * 9 + [64] * 9
    net.blocks = nn.Sequential(*(Projection(a, b) for a, b in zip(widths, widths[1:])))
    return net.eval()


def usual_loop(net, images, batch, seed):
    """One candidate: copy, cut every block's inner width by its own ratio, evaluate."""
    import torch_pruning as tp
    draw = random.Random(seed)
    start = time.perf_counter()
    cut = copy.deepcopy(net)
    ratios = {block.conv1: 1 - draw.uniform(0.2, 0.95) for block in cut.blocks}
    ratios[cut.conv1] = 0.15  # and the trunk a little: half of the MACs in the mean
    pruner = tp.pruner.MagnitudePruner(
        cut, images[:1], importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0,
        pruning_ratio_dict=ratios, ignored_layers=[cut.linear])
    pruner.step()
    pruned = time.perf_counter()
    with torch.no_grad():
        answers = [cut(images[first:first + batch]).argmax(1) for first in range(0, len(images), batch)]
        torch.cat(answers).cpu()
    seconds = time.perf_counter() - start
    macs, _ = tp.utils.count_ops_and_params(cut, images[:1])
    return seconds, pruned - start, macs


def kendall_tau(a, b):
    """tau-b: ties in either list count for neither."""
    concordant = discordant = only_a = only_b = 0
    for i in range(len(a)):
        for j in range(i):
            x, y = a[i] - a[j], b[i] - b[j]
            if x * y > 0:
                concordant += 1
            elif x * y < 0:
                discordant += 1
            elif x:
                only_a += 1
            elif y:
                only_b += 1
    pairs = concordant + discordant
    return (concordant - discordant) / math.sqrt((pairs + only_a) * (pairs + only_b))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", default=str(ROOT / "data"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--loops", type=int, default=6, help="candidates of the loop in PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cuda adds rows for masked candidates")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "candidates.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    espalier = Espalier(args.threads)
    rows = []

    def add(name, seconds, result=None, exact=None):
        row = {"name": name, "seconds_per_candidate": seconds}
        if result:
            row |= {key: result[key] for key in ("dropped", "forwards")}
            if exact:
                row["kendall_tau"] = kendall_tau(result["values"], exact["values"])
                chosen = max(range(args.count), key=lambda i: result["values"][i])
                best = max(exact["values"])
                row |= {"best": best, "chosen": exact["values"][chosen],
                        "within_standard_error":
                            best - exact["values"][chosen] <= exact["errors"][chosen]}
        rows.append(row)
        print(f"{name:46s} {seconds * 1e3:8.1f} ms a candidate", end="")
        print("".join(f"  {key} {value:.3f}" if isinstance(value, float) else f"  {key} {value}"
                      for key, value in row.items() if key not in ("name", "seconds_per_candidate")),
              flush=True)

    def ours(precision, race, sharing, workers, form="sliced"):
        result = espalier.measure("candidates", args.weights, args.data, args.count, args.samples,
                                  precision, race, sharing, workers, args.device, form)
        return result["seconds"] / args.count, result

    net = projection_resnet56().to(args.device)
    images = torch.randn(args.samples, 3, 32, 32, device=args.device)
    usual_loop(net, images, 250, 0)
    halves = [args.loops // 2, args.loops - args.loops // 2]  # before and after ours
    taken = [usual_loop(net, images, 250, seed) for seed in range(halves[0])]
    seconds, exact = ours("fp32", "full", "alone", args.threads)
    variants = [("fp32, every one in full", seconds, exact)]
    ways = [("fp32, every one in full, one worker", ("fp32", "full", "alone", 1)),
            ("bf16, every one in full", ("bf16", "full", "alone", args.threads)),
            ("fp32, shared prefixes and a race", ("fp32", "race", "shared", args.threads)),
            ("bf16, shared prefixes and a race", ("bf16", "race", "shared", args.threads))]
    if args.device != "cpu":
        ways += [("fp32, masked, every one in full", ("fp32", "full", "alone", 1, "masked")),
                 ("bf16, masked, every one in full", ("bf16", "full", "alone", 1, "masked"))]
    for name, how in ways:
        variants.append((name, *ours(*how)))
    taken += [usual_loop(net, images, 250, 1000 + seed) for seed in range(halves[1])]
    usual = sorted(seconds for seconds, _, _ in taken)[len(taken) // 2]
    base, _ = __import__("torch_pruning").utils.count_ops_and_params(net, images[:1])
    share = sum(macs for _, _, macs in taken) / len(taken) / base
    add("PyTorch: deepcopy, Torch-Pruning, evaluate", usual)
    rows[-1] |= {"cut_seconds": sorted(cut for _, cut, _ in taken)[len(taken) // 2],
                 "share_of_macs": share}
    print(f"  of which copy and cut {rows[-1]['cut_seconds'] * 1e3:.0f} ms; {share:.3f} of the MACs")
    for name, seconds, result in variants:
        add(name, seconds, result, exact)
        rows[-1]["times_faster"] = usual / seconds
        print(f"  {usual / seconds:.2f}x the loop in PyTorch")
    one = rows[2]["seconds_per_candidate"]
    print(f"two workers over one: efficiency {one / rows[1]['seconds_per_candidate'] / args.threads:.3f}")
    args.out.write_text(json.dumps({"torch": torch.__version__, "threads": args.threads,
                                    "count": args.count, "samples": args.samples, "rows": rows},
                                   indent=1) + "\n")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
