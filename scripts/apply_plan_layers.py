"""Layers that apply_plan.py puts in where torch's own cannot follow a cut. Only torch."""
import torch
from torch import nn
from torch.nn import functional as F

class Attention(nn.MultiheadAttention):
    """Multi-head attention whose inner widths are no longer those of its inputs."""

    def forward(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
                average_attn_weights=True, is_causal=False):
        batched, inputs = query.dim() == 3, [query, key, value]
        if not batched:
            inputs = [x.unsqueeze(0) for x in inputs]
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        bias = self.in_proj_bias
        biases = [None] * 3 if bias is None else bias.split(self.rows)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                   for x, w, b in zip(inputs, self.in_proj_weight.split(self.rows), biases))
        scores = q @ k.transpose(-1, -2) * self.scale
        if key_padding_mask is not None:
            scores = mask(scores, key_padding_mask.reshape(len(k), 1, 1, -1))
        if attn_mask is not None:  # [L, S], or one for every sample and head
            scores = mask(scores, attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, q.shape[:2]))
        weights = scores.softmax(-1)
        out = F.dropout(weights, self.dropout, self.training) @ v
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        weights = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        if not batched:
            return out.squeeze(0), weights if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

def mask(scores, given):
    return scores.masked_fill(given, -torch.inf) if given.dtype == torch.bool else scores + given

def attention_edits(layer, kept_rows):
    """What makes an Attention of it: kept_rows of in_proj_weight, or None when they all stay."""
    width, dim = layer.embed_dim, layer.head_dim
    kept = range(3 * width) if kept_rows is None else kept_rows
    parts = [[row - i * width for row in kept if row // width == i] for i in range(3)]
    return [(layer, "rows", [len(part) for part in parts]), (layer, "scale", dim ** -0.5),
            (layer, "num_heads", len({row // dim for row in parts[0]})), (layer, "__class__", Attention),
            (layer, "_qkv_same_embed_dim", False)]  # off nn.TransformerEncoderLayer's fused path

class Gone(nn.Module):
    """Where a residual branch was left out: adds nothing."""

    def __init__(self, old):
        super().__init__()
        self.pair = isinstance(old, nn.MultiheadAttention)

    def forward(self, *args, **kwargs):
        zeros = torch.zeros_like([*args, *kwargs.values()][0])
        return (zeros, None) if self.pair else zeros

def prepare(modules, plan):
    """What is left of the plan, and attributes to be set: (layer, name, value)."""
    removed, edits = set(plan.get("removed", [])), []
    gone = {branch["module"]: Gone for branch in plan.get("branches", [])}
    if "" in gone:
        raise ValueError("the plan leaves out branches that are no modules of their own: " + ", ".join(
            branch["node"] for branch in plan["branches"] if not branch["module"]))
    gone |= {path: lambda _: nn.Identity() for path in {name.rpartition(".")[0] for name in removed}
             if not any((path + ".").startswith(known + ".") for known in gone)}
    for path, make in gone.items():
        owner, _, leaf = path.rpartition(".")
        edits.append((modules[owner], leaf, make(modules[path])))
    kept = {name: axes for name, axes in plan["kept"].items() if name not in removed}
    settled = list(gone)
    for path, layer in modules.items():
        packed, out = (f"{path}.{leaf}".lstrip(".") for leaf in ("in_proj_weight", "out_proj.weight"))
        if not isinstance(layer, nn.MultiheadAttention) or not {packed, out} & kept.keys():
            continue
        if not layer._qkv_same_embed_dim or layer.bias_k is not None or layer.add_zero_attn:
            raise ValueError(f"attention '{path}' has kdim, vdim, add_bias_kv or add_zero_attn")
        edits += attention_edits(layer, kept.get(packed, {}).get("0"))
        settled.append(path)
    additions = {branch["node"] for branch in plan.get("branches", [])}
    literals = [edit for edit in plan["edits"] if edit["node"] not in additions and not any(
        (edit["module"] + ".").startswith(path + ".") for path in settled)]
    return {**plan, "kept": kept, "edits": literals}, edits
