#!/usr/bin/env python3
"""Speed and memory against eager PyTorch, both in one run and in turns, so that a change of the
machine's load hits both. Prints a table and writes experiments/results/bench.json.

  .venv/bin/python experiments/bench/bench.py                 # everything, about 10 minutes
  .venv/bin/python experiments/bench/bench.py --only eval     # one part
Run it on an otherwise idle machine.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build" / "espalier-bench"


class Block(nn.Module):
    """Basic block of He et al.'s CIFAR ResNets with option-A shortcuts; gates for the AutoBot step."""

    def __init__(self, inputs, outputs):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.grows = inputs != outputs
        self.pad = (outputs - inputs) // 2
        self.alpha1 = self.alpha2 = None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        if self.alpha1 is not None:
            y = y * torch.sigmoid(self.alpha1).view(1, -1, 1, 1)
        y = self.bn2(self.conv2(y))
        if self.alpha2 is not None:
            y = y * torch.sigmoid(self.alpha2).view(1, -1, 1, 1)
        if self.grows:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class Resnet56(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16] + [16] * 9 + [32] * 9 + [64] * 9
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(widths, widths[1:])))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Espalier:
    """The C++ side: one process, one measurement a line."""

    def __init__(self, threads):
        self.process = subprocess.Popen([BINARY, str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def measure(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{BINARY} ended while measuring: {' '.join(map(str, words))}")
        return json.loads(line)


def images(batch, channels_last):
    x = torch.randn(batch, 3, 32, 32)
    return x.to(memory_format=torch.channels_last) if channels_last else x


def eager_training(batch, steps, channels_last):
    net = Resnet56()
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    x, y = images(batch, channels_last), torch.randint(10, (batch,))

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return timed(step, steps)


def eager_autobot(batch, steps):
    """Frozen network in eval mode, one trained gate a channel, whole batch at once."""
    net = Resnet56().eval().requires_grad_(False)
    gates = []
    for block in net.blocks:
        for name, bn in (("alpha1", block.bn1), ("alpha2", block.bn2)):
            gate = torch.full((bn.num_features,), 2.1972, requires_grad=True)
            setattr(block, name, gate)
            gates.append(gate)
    optimizer = torch.optim.Adam(gates, lr=0.6)
    x, y = images(batch, False), torch.randint(10, (batch,))

    def step():
        optimizer.zero_grad()
        shares = torch.stack([torch.sigmoid(gate).mean() for gate in gates])
        cost = (shares[1:] * shares[:-1]).sum() / len(gates)
        binary = torch.stack([(torch.sigmoid(g) - torch.sigmoid(g).round()).abs().mean()
                              for g in gates]).mean()
        (F.cross_entropy(net(x), y) + 6 * cost + 0.4 * binary).backward()
        optimizer.step()

    return timed(step, steps)


def eager_evaluation(batch, count):
    net = Resnet56().eval()
    x = images(batch, False)

    def step():
        with torch.no_grad():
            net(x).argmax(1)

    return timed(step, count // batch) / batch


def matmul_rate():
    """Multiply-adds a second of a 2048^3 product: what this machine's arithmetic allows."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2048 ** 3 / min(timed(lambda: a @ b, 1) for _ in range(5))


def timed(step, steps):
    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def peak_mib(threads, *words):
    """Peak resident memory of a fresh process that does one measurement."""
    process = subprocess.Popen([BINARY, str(threads)], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)
    process.stdin.write(" ".join(map(str, words)) + "\n")
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{BINARY} failed while measuring the memory of: {words}")
    return usage.ru_maxrss / 1024


class Report:
    def __init__(self):
        self.rows = []

    def add(self, name, value, unit, bound=None, at_most=True):
        ok = None if bound is None else bool(value <= bound if at_most else value >= bound)
        self.rows.append({"name": name, "value": value, "unit": unit, "bound": bound, "met": ok})
        sign = "" if bound is None else f"  ({'<=' if at_most else '>='} {bound:g}: {'yes' if ok else 'NO'})"
        print(f"{name:68s} {value:10.4g} {unit}{sign}", flush=True)


def in_turns(rounds, contenders):
    """Median seconds of each; every round measures all of them one after another."""
    taken = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}


def bench_training(report, espalier, args):
    batch, steps = 128, args.steps
    t = in_turns(args.rounds, {
        "eager contiguous": lambda: eager_training(batch, steps, False),
        "eager channels_last": lambda: eager_training(batch, steps, True),
        "fp32": lambda: espalier.measure("train", "resnet56", batch, steps, "fp32")["seconds"],
        "bf16": lambda: espalier.measure("train", "resnet56", batch, steps, "bf16")["seconds"]})
    for name, seconds in t.items():
        report.add(f"training step, ResNet-56, batch {batch}: {name}", seconds * 1e3, "ms")
    best = min(t["fp32"], t["bf16"])  # precision = "auto" takes the faster
    report.add("  fp32 / eager contiguous", t["fp32"] / t["eager contiguous"], "x", 0.75)
    report.add("  fp32 / eager channels_last", t["fp32"] / t["eager channels_last"], "x", 1.0)
    report.add("  auto / eager contiguous", best / t["eager contiguous"], "x", 0.75)
    report.add("  auto / eager channels_last", best / t["eager channels_last"], "x", 1.0)


def bench_eval(report, espalier, args):
    batch, count = 250, 250 * args.steps
    t = in_turns(args.rounds, {
        "eager contiguous": lambda: eager_evaluation(batch, count),
        "fast": lambda: espalier.measure("eval", "resnet56", batch, count, "fast")["seconds"],
        "fast bf16": lambda: espalier.measure("eval", "resnet56", batch, count, "bf16")["seconds"],
        "plain": lambda: espalier.measure("eval", "resnet56", batch, count, "plain")["seconds"]})
    for name, seconds in t.items():
        report.add(f"evaluation, ResNet-56, batch {batch}: {name}", 1 / seconds, "images/s")
    report.add("  fast / eager contiguous", t["eager contiguous"] / t["fast"], "x", 2.0, False)
    report.add("  fast bf16 / eager contiguous", t["eager contiguous"] / t["fast bf16"], "x", 2.0,
               False)
    report.add("  fast, multiply-adds", 0.12575 / t["fast"], "G/s")
    report.add("  large fp32 matrix product, for comparison", matmul_rate() / 1e9, "G/s")


def bench_autobot(report, espalier, args):
    batch, steps = 64, args.steps
    t = in_turns(args.rounds, {
        "eager contiguous": lambda: eager_autobot(batch, steps),
        "ours": lambda: espalier.measure("autobot", "resnet56", batch, steps)["seconds"]})
    for name, seconds in t.items():
        report.add(f"AutoBot step, ResNet-56, {batch} images: {name}", seconds * 1e3, "ms")
    report.add("  ours / eager contiguous", t["ours"] / t["eager contiguous"], "x", 0.75)
    search = peak_mib(args.threads, "autobot", "resnet56", batch, 2)
    training = peak_mib(args.threads, "train", "resnet56", batch, 2, "fp32")
    report.add("  peak memory of the search", search, "MiB")
    report.add("  peak memory of plain training, same batch", training, "MiB")
    report.add("  search / training", search / training, "x", 1.2)


def bench_trace(report, espalier, args):
    for model in ("densenet40", "resnet110", "googlenet_cifar"):
        t = espalier.measure("trace", model, "coupled")
        report.add(f"{model}: one forward of 1 image", t["forward"] * 1e3, "ms")
        report.add("  label trace + groups / forward", t["space"] / t["forward"], "x")
        report.add("  trace + groups", t["space"] * 1e3, "ms")
        report.add("  cost model", t["cost"] * 1e3, "ms", 50)
    t = espalier.measure("project", "resnet110", 200)
    report.add(f"Project, {t['groups']} groups, two bounds", t["seconds"] * 1e6, "us", 100)


PARTS = {"train": bench_training, "eval": bench_eval, "autobot": bench_autobot, "trace": bench_trace}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="turns; the median counts")
    parser.add_argument("--steps", type=int, default=4, help="steps (batches) a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "bench.json")
    args = parser.parse_args()
    if not BINARY.exists():
        raise SystemExit(f"{BINARY} is missing; build it: ninja -C build espalier-bench")
    torch.set_num_threads(args.threads)
    espalier, report = Espalier(args.threads), Report()
    for name in args.only or PARTS:
        PARTS[name](report, espalier, args)
    machine = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                    if line.startswith("model name")), platform.processor())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"torch": torch.__version__, "machine": machine,
                                    "threads": args.threads, "rounds": args.rounds,
                                    "steps": args.steps, "results": report.rows}, indent=1) + "\n")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
