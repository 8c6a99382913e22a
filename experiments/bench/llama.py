#!/usr/bin/env python3
"""A Llama of a billion parameters in bfloat16 (TinyLlama's shape, random weights): how long inspect
and prune take and how much memory at most.

  .venv/bin/pip install transformers
  .venv/bin/python experiments/bench/llama.py [--layers 22] [--folder DIR] [--keep]
Prints one line a command; needs 5 GB of disk. `peak` is the most resident memory of the process (VmHWM), to
be compared with the weights' own bytes.
"""
import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build" / "espalier"


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(input_ids=tokens, use_cache=False).logits


def write(path, layers):
    """Exports the network; returns the bytes of its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=32000, hidden_size=2048, intermediate_size=5632,
                         num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=4,
                         max_position_embeddings=2048)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.fill_(1) if "norm" in name else tensor.uniform_(-0.05, 0.05)
        rotary = model.model.rotary_emb  # its buffers are computed, not stored
        frequencies, rotary.attention_scaling = rotary.compute_default_rope_parameters(config)
        rotary.inv_freq.copy_(frequencies)
    tokens = torch.randint(config.vocab_size, (2, 16))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Logits(model), (tokens,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def run(*words):
    """Seconds and peak resident bytes of one command."""
    start = time.perf_counter()
    process = subprocess.Popen([BINARY, *map(str, words)], stdout=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"espalier {words[0]} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22, help="22 make 1.1 billion parameters")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--inspect", action="store_true", help="leave prune out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        path = folder / f"llama{args.layers}.pt2"
        if path.exists():
            weights = path.stat().st_size
        else:
            child = os.fork()  # Python's own copy of the network must not stay in memory
            if child == 0:
                write(path, args.layers)
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                raise SystemExit("the export failed")
            weights = path.stat().st_size
        print(f"weights {weights / 2**30:.2f} GiB", flush=True)
        commands = [("inspect", path)]
        if not args.inspect:
            commands.append(("prune", path, "--macs", "0.5", "--out", Path(temporary) / "cut"))
        for words in commands:
            seconds, peak = run(*words)
            print(f"{words[0]:8s} {seconds:7.1f} s   peak {peak / 2**30:.2f} GiB = weights "
                  f"{(peak - weights) / 2**30:+.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
