#!/usr/bin/env python3
"""Applies plan.json to eager PyTorch models as docs/formats.md tells, without Espalier.

usage: check_plan.py FOLDER

FOLDER holds one NAME.io.safetensors per case, as check_models.py reads them, and NAME.plan.json beside
it. `output` is what the network that Espalier cut gives for `input`; the eager twin of the *uncut*
network, cut here by the plan, must give the same to 1e-5 of its largest magnitude.
Prints a line per case; exits 1 when one differs. Writes nothing.
"""

import json
import pathlib
import sys

import torch
from torch import nn

sys.dont_write_bytecode = True
from check_models import read_safetensors  # noqa: E402
from eager_models import build  # noqa: E402


def cut(tensor, axes):
    per_block = {axis: kept for axis, kept in axes.items() if isinstance(kept, dict)}
    for axis, kept in per_block.items():  # before axis 0 itself is cut
        blocks = tensor.chunk(len(kept["kept"]), 0)
        parts = [b.index_select(int(axis), torch.tensor(k)) for b, k in zip(blocks, kept["kept"])]
        tensor = torch.cat(parts, 0)
    for axis, kept in axes.items():
        if axis not in per_block:
            tensor = tensor.index_select(int(axis), torch.tensor(kept))
    return tensor


def apply_plan(model, plan):
    for name, axes in plan["kept"].items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        tensor = cut(getattr(module, leaf).detach(), axes)
        if leaf in module._parameters:
            tensor = nn.Parameter(tensor)
        setattr(module, leaf, tensor)
    for module in model.modules():  # the modules' own numbers follow the shapes
        if isinstance(module, nn.Conv2d):
            if module.groups == module.in_channels:
                module.groups = module.weight.shape[0]
            module.out_channels = module.weight.shape[0]
            module.in_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.num_features = module.weight.shape[0]


def check(case):
    tensors, metadata = read_safetensors(case)
    model = build(metadata["model"], int(metadata["classes"]), metadata["shortcut"])
    weights, _ = read_safetensors(case.parent / metadata["weights"])
    model.load_state_dict(weights, strict=True)
    plan_file = case.with_name(case.name.replace(".io.safetensors", ".plan.json"))
    plan = json.loads(plan_file.read_text())
    with torch.no_grad():
        uncut = model.eval()(tensors["input"])
        apply_plan(model, plan)
        expected = model(tensors["input"])
    scale = expected.abs().max().item()
    error = (tensors["output"] - expected).abs().max().item() / scale
    if not error <= 1e-5:
        return f"relative difference {error:.3g}, allowed 1e-5"
    if not (uncut - expected).abs().max().item() / scale > 1e-2:
        return "the plan changes nothing: the comparison proves nothing"
    return None


def main():
    cases = sorted(pathlib.Path(sys.argv[1]).glob("*.io.safetensors"))
    failures = [] if cases else ["no case in the folder"]
    for case in cases:
        difference = check(case)
        print(f"{case.name}: {difference or 'equal'}")
        if difference:
            failures.append(case.name)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
