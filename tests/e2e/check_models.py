#!/usr/bin/env python3
"""Checks the built-in networks against the eager PyTorch twins of eager_models.py.

usage: check_models.py FOLDER

FOLDER holds one NAME.io.safetensors per case: tensors `input` and `output`, and as metadata `model`,
`weights` (file name), `classes` and `shortcut`. Each twin loads the weights strictly, so parameter
names and shapes must agree, and must give the same output to 1e-5 of its largest magnitude. With the
metadata `archive` (a .pt2 file), torch.export.load must open it, it must hold the twin's parameters and
buffers by name, and give the twin's outputs at another batch size.
Prints a line per case; exits 1 when one differs. Writes nothing.
"""

import json
import math
import pathlib
import struct
import sys

import torch

sys.dont_write_bytecode = True
from eager_models import build  # noqa: E402

DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def read_safetensors(path):
    blob = bytearray(pathlib.Path(path).read_bytes())
    (size,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        count = math.prod(entry["shape"])
        begin = 8 + size + entry["data_offsets"][0]
        flat = torch.frombuffer(blob, dtype=DTYPES[entry["dtype"]], count=count, offset=begin)
        tensors[name] = flat.clone().reshape(entry["shape"])
    return tensors, metadata


def difference(output, expected):
    """None when equal to 1e-5 of the largest magnitude."""
    if output.shape != expected.shape:
        return f"shape {tuple(output.shape)}, expected {tuple(expected.shape)}"
    error = ((output - expected).abs().max() / expected.abs().max()).item()
    return None if error <= 1e-5 else f"relative difference {error:.3g}, allowed 1e-5"


def check_archive(path, twin, images):
    program = torch.export.load(path)
    state, expected = program.state_dict, twin.state_dict()
    for name in sorted(state.keys() ^ expected.keys()):
        return f"archive: '{name}' is in the {'archive' if name in state else 'twin'} only"
    for name, tensor in expected.items():
        if not torch.equal(state[name], tensor):
            return f"archive: '{name}' differs"
    found = difference(program.module()(images), twin(images))
    return found and f"archive: {found}"


def check(case):
    """None when the twin agrees, else what differs."""
    tensors, metadata = read_safetensors(case)
    with torch.device("meta"):  # no time for random weights that are replaced at once
        twin = build(metadata["model"], int(metadata["classes"]), metadata["shortcut"]).eval()
    weights, _ = read_safetensors(case.parent / metadata["weights"])
    for name in twin.state_dict():
        if name.endswith(".num_batches_tracked"):
            weights.setdefault(name, torch.zeros((), dtype=torch.int64))
    try:
        twin.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        return str(error)
    images = tensors["input"]
    with torch.no_grad():
        found = difference(tensors["output"], twin(images))
        if not found and "archive" in metadata:
            others = torch.cat([images.flip(3), images[:1]])
            found = check_archive(case.parent / metadata["archive"], twin, others)
    return found


def main():
    cases = sorted(pathlib.Path(sys.argv[1]).glob("*.io.safetensors"))
    failures = [] if cases else ["no case in the folder"]
    for case in cases:
        found = check(case)
        print(f"{case.name}: {found or 'equal'}")
        if found:
            failures.append(case.name)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
