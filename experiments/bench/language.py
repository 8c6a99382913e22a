#!/usr/bin/env python3
"""A decoder small enough to train in minutes, on made-up text whose rules need depth: the test bed for what is
said of language models.

  .venv/bin/python experiments/bench/language.py FOLDER [--steps 1400] [--seed 0]
writes FOLDER/model.pt2, FOLDER/products.pt2 (the same with attention written as matrix products, where the dims of values
are units of their own) and FOLDER/{train,validation,test}/tokens.safetensors, and prints the perplexity.

Six blocks of RMS norm, rotary attention (4 heads of 16) and a gated layer of 128 units, width 64, 32 words, 250,688
parameters. A text of 49 tokens names its mode and goes on with a noisy second-order chain, a repeated phrase, or brackets.
"""
import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, HIDDEN, BLOCKS, WORDS, TOKENS = 64, 4, 128, 6, 32, 49
MASK = (1 << 64) - 1


class SplitMix:
    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        x = self.state
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    def uniform(self):
        return (self.next() >> 11) / 2**53

    def below(self, count):
        return self.next() % count


def chain(random):
    a, b = 4 + random.below(28), 4 + random.below(28)
    yield a
    yield b
    while True:
        u = random.uniform()
        k = 0 if u < 0.7 else 1 if u < 0.85 else 2 if u < 0.95 else 3
        seed = (a % 7) * 1000003 + b * 10007 + k * 101 + 7
        a, b = b, 4 + SplitMix(seed).next() % 28
        yield b


def phrase(random):
    block = [4 + random.below(28) for _ in range(8 + random.below(9))]
    while True:
        yield from block


def brackets(random):
    stack = []
    while True:
        if not stack or (len(stack) < 6 and random.uniform() < 0.5):
            stack.append(random.below(8))
            yield 4 + stack[-1]
        else:
            yield 12 + stack.pop()


def texts(seed, count):
    """[count, TOKENS] int64, one stream of numbers a seed."""
    random, rows = SplitMix(seed), []
    for _ in range(count):
        mode = random.below(3)
        source = (chain, phrase, brackets)[mode](random)
        rows.append([0, 1 + mode] + [next(source) for _ in range(TOKENS - 2)])
    return torch.tensor(rows)


def rotate(x):
    """Rotary positions for [B, heads, T, dim], halves as pairs."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(x.shape[-2])[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def products(q, k, v):
    """Causal attention without a fused kernel."""
    later = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(later, float("-inf"))
    return scores.softmax(-1) @ v


class Block(nn.Module):
    fused = True

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.gate = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rotate(q), rotate(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True) if self.fused else products(q, k, v)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            scale = weight.shape[1] ** -0.5
            if name.endswith(("o.weight", "down.weight")):
                scale /= math.sqrt(2 * BLOCKS)
            nn.init.normal_(weight, std=0.02 if name.startswith("embed") else scale)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_of(model, tokens):
    logits = model(tokens)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train(model, tokens, steps, seed):
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
    warmup, least = 100, 0.05

    def factor(step):
        share = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
        return min(1.0, (step + 1) / warmup) * (least + (1 - least) * (1 + math.cos(math.pi * share)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = tokens[torch.randint(len(tokens), (32,), generator=order)]
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}, loss {loss.item():.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # What the generator is known to start with.
    known = texts(1, 2)
    assert known[0, :12].tolist() == [0, 3, 11, 19, 7, 4, 12, 15, 4, 12, 5, 13], known[0]
    assert known[1, :12].tolist() == [0, 3, 6, 7, 5, 5, 13, 13, 15, 14, 7, 15], known[1]
    torch.manual_seed(args.seed)
    model = Decoder()
    assert sum(p.numel() for p in model.parameters()) == 250_688
    splits = {"train": texts(1, 12288), "validation": texts(2, 256), "test": texts(4, 256)}
    train(model, splits["train"], args.steps, args.seed)
    model.eval()
    with torch.no_grad():
        for split in ("validation", "test"):
            print(f"{split} perplexity {math.exp(loss_of(model, splits[split]).item()):.3f}")
    for split, tokens in splits.items():
        (args.folder / split).mkdir(parents=True, exist_ok=True)
        save_file({"inputs.tokens": tokens}, args.folder / split / "tokens.safetensors")
    for name, Block.fused in (("model", True), ("products", False)):
        program = torch.export.export(model, (splits["test"][:2],),
                                      dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, args.folder / f"{name}.pt2")


if __name__ == "__main__":
    main()
