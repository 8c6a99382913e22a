#!/usr/bin/env python3
"""Cuts an eager PyTorch model as a plan.json says; it keeps its class, and so its .train(). As a script:
apply_plan.py PLAN.json MODULE:FUNCTION OUT.pt, where FUNCTION() makes the uncut model. Numbers in forward()
that change are refused by name, unless follows=["view_3"] or ["*"] says that they come from shapes."""
import importlib, json, sys, torch, torch.nn as nn  # noqa: E401
# Arguments of operators that these layers hold in attributes; axes of the weight that others name.
LAYERS = {"groups": ("groups", nn.modules.conv._ConvNd), "num_groups": ("num_groups", nn.GroupNorm),
          "normalized_shape": ("normalized_shape", (nn.LayerNorm, nn.RMSNorm)),
          "sizes": ("unflattened_size", nn.Unflatten), "size": ("hidden_size", nn.RNNBase)}
WIDTHS = {"out_features": 0, "in_features": 1, "num_embeddings": 0, "embedding_dim": 1,
          "num_features": 0, "num_channels": 0}
def cut(tensor, axes):  # axis -> indices; an axis with one list a block of axis 0 goes first
    for axis, kept in sorted(axes.items(), key=lambda item: isinstance(item[1], list)):
        lists = [kept] if isinstance(kept, list) else kept["kept"]
        parts = zip(tensor.detach().chunk(len(lists)), lists)
        tensor = torch.cat([t.index_select(int(axis), torch.tensor(k).to(t.device)) for t, k in parts])
    return tensor

def set_widths(layer):  # a layer's own numbers follow the shapes of its tensors
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.RNNBase):
        layer.input_size, layer.hidden_size = layer.weight_ih_l0.shape[1], layer.weight_hh_l0.shape[1]
    elif isinstance(layer, nn.modules.conv._ConvNd):
        pair = weight.shape[0], weight.shape[1] * layer.groups
        layer.in_channels, layer.out_channels = pair if layer.transposed else pair[::-1]
    elif torch.is_tensor(weight):
        for name in WIDTHS.keys() & vars(layer).keys():
            setattr(layer, name, weight.shape[WIDTHS[name]])

def apply_plan(model, plan, follows=()):
    modules, edits = dict(model.named_modules(remove_duplicate=False)), []
    if "branches" in plan or any(isinstance(layer, nn.MultiheadAttention) for layer in modules.values()):
        plan, edits = importlib.import_module("apply_plan_layers").prepare(modules, plan)
    slots = [(layer, leaf, f"{path}.{leaf}".lstrip("."), tensor) for path, layer in modules.items()
             for leaf, tensor in {**layer._parameters, **layer._buffers, **vars(layer)}.items()]
    named = {name: tensor for _, _, name, tensor in slots if torch.is_tensor(tensor)}
    numbered = plan.get("renumbered", {})
    wrong = [f"it has no tensor '{name}'" for name in {**plan["kept"], **numbered} if name not in named]
    wrong += [f"it computes '{name}' anew in every forward" for name in plan.get("folded", [])]
    for edit in plan["edits"]:
        layer, (name, kind) = modules.get(edit["module"]), LAYERS.get(edit["argument"], ("", ()))
        if isinstance(layer, kind):
            edits.append((layer, name, edit["to"] if isinstance(edit["to"], int) else tuple(edit["to"])))
        elif not {edit["node"], "*"} & set(follows):
            wrong.append("{op} '{node}' in module '{module}': {argument} {from} must be {to}".format(**edit))
    if wrong:
        raise ValueError("the plan does not fit this eager model:\n  " + "\n  ".join(wrong))
    new = {id(named[name]): cut(named[name], axes) for name, axes in plan["kept"].items()}
    for old, kept in [(named[name], torch.tensor(kept)) for name, kept in numbered.items()]:
        new[id(old)] = torch.searchsorted(kept.to(old.device), new.get(id(old), old)).to(old.dtype)
    new |= {id(t): nn.Parameter(new[id(t)], t.requires_grad) for t in model.parameters() if id(t) in new}
    for layer, name, value in [(s[0], s[1], new[id(s[3])]) for s in slots if id(s[3]) in new] + edits:
        setattr(layer, name, value)
    [set_widths(layer) for layer in modules.values()]
    return model
if __name__ == "__main__":
    sys.path.insert(0, "")
    (module, function), plan = sys.argv[2].split(":"), json.load(open(sys.argv[1]))
    torch.save(apply_plan(getattr(importlib.import_module(module), function)(), plan), sys.argv[3])
