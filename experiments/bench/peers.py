#!/usr/bin/env python3
"""Trace, groups, scores, plan and cut at half of every width: Espalier beside Torch-Pruning, and
beside what torch-kirigami takes for its graph alone, in one run, one thread. Networks are written here in plain torch.

  .venv/bin/pip install torch-pruning==1.6.1 torch-kirigami==0.2.1    # either may be missing
  ninja -C build espalier-bench
  .venv/bin/python experiments/bench/peers.py [--only densenet121] [--rounds 3]
The tools take turns and the best of each counts; ours runs five times in a turn.
Prints a table and writes experiments/results/peers.json. Export to .pt2 and reading it are not counted,
nor is copying the module that Torch-Pruning cuts in place. Run it on an otherwise idle machine.
"""
import argparse
import copy
import json
import math
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from bench import BINARY, ROOT, Resnet56


class DenseLayer(nn.Module):
    """Bottleneck of DenseNet-BC (Huang et al., arXiv:1608.06993): 1x1 to 4k channels, 3x3 to k."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, y], 1)


class Transition(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    def __init__(self, blocks, growth=32, width=64):
        super().__init__()
        layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                  nn.MaxPool2d(3, 2, 1)]
        for index, count in enumerate(blocks):
            for _ in range(count):
                layers.append(DenseLayer(width, growth))
                width += growth
            if index + 1 < len(blocks):
                layers.append(Transition(width))
                width //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, 1000)

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class VitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, _ = x.shape
        y = self.norm1(x)
        q, k, v = (layer(y).view(batch, length, self.heads, -1).transpose(1, 2)
                   for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """ViT-B/16 (Dosovitskiy et al., arXiv:2010.11929), mean over tokens instead of a class token."""

    def __init__(self, width=768, depth=12, heads=12, tokens=196):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(VitBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


OURS_A_TURN = 5  # a network takes us a fraction of a second: five times in every turn
NETWORKS = {  # name: (module, input side)
    "resnet56": (Resnet56, 32),
    "densenet121": (lambda: DenseNet((6, 12, 24, 16)), 64),
    "densenet201": (lambda: DenseNet((6, 12, 48, 32)), 64),
    "vit_b_16": (Vit, 224),
}


def seconds_of(work, subject):
    start = time.perf_counter()
    work(subject)
    return time.perf_counter() - start


def torch_pruning(module, x):
    import torch_pruning as tp
    heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
    names = {id(layer): path for path, layer in module.named_modules()}
    ignored = [names[id(layer)] for layer in heads]

    def work(subject):
        layers = dict(subject.named_modules())
        pruner = tp.pruner.MagnitudePruner(
            subject, x, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
            ignored_layers=[layers[path] for path in ignored])
        pruner.step()

    return lambda: seconds_of(work, copy.deepcopy(module))


def kirigami(module, x):
    from torch_kirigami import DependencyGraph  # its graph alone; selection and cut come on top
    return lambda: seconds_of(lambda subject: DependencyGraph.build(subject, args=(x,)),
                              copy.deepcopy(module))


def espalier(module, x, folder):
    path = Path(folder) / "model.pt2"
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(module, (torch.cat([x, x]),),
                                          dynamic_shapes=({0: batch},)), path)

    def measure():
        answer = subprocess.run([BINARY, "1"], input=f"cut {path} {OURS_A_TURN}\n", text=True,
                                stdout=subprocess.PIPE, check=True)
        return json.loads(answer.stdout)["seconds"]

    return measure


def compare(name, rounds):
    """All tools in turns, so that a slow minute of the machine is one of each; the best counts."""
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    module, x = build().eval(), torch.randn(1, 3, side, side)
    row = {"network": name}
    with tempfile.TemporaryDirectory() as folder:
        tools = {"espalier": espalier(module, x, folder)}
        for label, tool in (("torch-pruning", torch_pruning), ("torch-kirigami", kirigami)):
            try:
                tools[label] = tool(module, x)
            except ImportError as error:
                row[label] = str(error)
        for _ in range(rounds):
            for label, measure in tools.items():
                if isinstance(row.get(label), str):
                    continue
                try:
                    row[label] = min(measure(), row.get(label, math.inf))
                except Exception as error:  # a tool that refuses the network: said so
                    row[label] = f"{type(error).__name__}: {str(error)[:80]}"
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--rounds", type=int, default=3, help="turns; the best counts")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "peers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.only or NETWORKS:
        row = compare(name, args.rounds)
        rows.append(row)
        print(f"{name:14s} espalier {row['espalier'] * 1e3:9.1f} ms", end="")
        for label in ("torch-pruning", "torch-kirigami"):
            value = row[label]
            print(f"   {label} " + (f"{value * 1e3:9.1f} ms = {value / row['espalier']:.0f}x"
                                    if isinstance(value, float) else value), end="")
        print(flush=True)
    args.out.write_text(json.dumps({"torch": torch.__version__, "rounds": args.rounds,
                                    "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
