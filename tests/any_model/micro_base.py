"""What the micro networks have in common: the record of one network and how it is registered.

A micro network is a torch module of a few layers that shows one pattern, its sample inputs, and the
layers that have to get smaller when it is cut to half its multiply-accumulates.
"""
import dataclasses
import typing

import torch
from torch import nn


@dataclasses.dataclass
class Micro:
    name: str
    make: typing.Callable[[], nn.Module]
    # batch size -> (positional, keyword) inputs; the values are seeded by the caller.
    inputs: typing.Callable[[int], tuple]
    # Layers that must be cut: "conv1" = axis 0 of conv1.weight, "table@1" = axis 1 of that tensor.
    cut: tuple = ()
    dynamic: bool = True  # the first axis of every input is the batch
    shapes: object = None  # dynamic_shapes of torch.export where that is not so
    gradients: bool = True  # False: eager PyTorch cannot differentiate it either
    keeps_json: bool = True  # False: sub-graphs are put in place, so the rewritten archive differs

    def module(self):
        torch.manual_seed(sum(self.name.encode()))
        module = self.make()
        randomise_norms(module)
        return module.eval()

    def dynamic_shapes(self, args, kwargs):
        if not self.dynamic:
            return None
        if self.shapes is not None:
            return self.shapes(torch.export.Dim("batch", min=1))
        batch = torch.export.Dim("batch", min=1)
        of = lambda value: {0: batch} if isinstance(value, torch.Tensor) else None  # noqa: E731
        return tuple(of(value) for value in args) if not kwargs else _by_name(
            self.make, [of(value) for value in args], {name: of(v) for name, v in kwargs.items()})


def _by_name(make, positional, named):
    import inspect
    names = [name for name in inspect.signature(make.forward).parameters if name != "self"]
    return {**dict(zip(names, positional)), **named}


NETWORKS: typing.List[Micro] = []


def micro(inputs, cut=(), **options):
    """Registers the decorated module class under its name in snake case."""
    def register(make):
        name = "".join("_" + c.lower() if c.isupper() else c for c in make.__name__).lstrip("_")
        NETWORKS.append(Micro(name, make, inputs, tuple(cut), **options))
        return make
    return register


def randomise_norms(module):
    """Statistics and affine parameters of norms far from 0 and 1, so that a leaked channel shows."""
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    for layer in module.modules():
        if not isinstance(layer, norms):
            continue
        with torch.no_grad():
            for name, tensor in list(layer.named_parameters()) + list(layer.named_buffers()):
                if name in ("weight", "running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif name in ("bias", "running_mean"):
                    tensor.normal_()


def image(channels, size=8):
    return lambda batch: ((torch.randn(batch, channels, size, size),), {})


def series(channels, length=12):
    return lambda batch: ((torch.randn(batch, channels, length),), {})


def volume(channels, size=6):
    return lambda batch: ((torch.randn(batch, channels, size, size, size),), {})


def vector(features):
    return lambda batch: ((torch.randn(batch, features),), {})


def sequence(features, length=6):
    return lambda batch: ((torch.randn(batch, length, features),), {})


def tokens(rows, length=6):
    return lambda batch: ((torch.randint(0, rows, (batch, length)),), {})


def conv(inputs, outputs, kernel=3, **options):
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, **options)


class Head(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, channels, outputs=5):
        super().__init__()
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x):
        return self.fc(x.flatten(2).mean(2))
