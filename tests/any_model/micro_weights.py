"""Weights that a forward computes of what is stored."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from micro_base import Head, conv, image, micro, vector


@micro(image(3), cut=["a.parametrizations.weight.original1", "b.parametrizations.weight.original1"])
class WeightNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 16), Head(16)
        for layer in (self.a, self.b):
            parametrizations.weight_norm(layer)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        spread, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (self.weight - mean) / (spread + 1e-6).sqrt(), self.bias, padding=self.padding)


@micro(image(3), cut=["a", "b"])
class StandardisedConvs(nn.Module):
    """BiT, NFNet."""

    def __init__(self):
        super().__init__()
        self.a, self.b = StandardisedConv(3, 12, 3, padding=1), StandardisedConv(12, 16, 3, padding=1)
        self.head = Head(16)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


class LowRankUpdate(nn.Linear):
    """LoRA, merged in every forward."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(3, inputs)), nn.Parameter(torch.randn(outputs, 3))

    def forward(self, x):
        return F.linear(x, self.weight + self.up @ self.down * 0.25, self.bias)


@micro(vector(6), cut=["a", "b"])
class LowRankUpdates(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = LowRankUpdate(6, 24), LowRankUpdate(24, 16), LowRankUpdate(16, 5)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


@micro(vector(6), cut=["out@1"])
class WeightOfParts(nn.Module):
    """A weight that no stored tensor has the shape of: a new parameter of the archive."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(24, 3)), nn.Parameter(torch.randn(3, 6))
        self.out = nn.Linear(24, 5)

    def forward(self, x):
        return self.out(F.relu(F.linear(x, self.up @ self.down)))


@micro(vector(6), cut=["inner"])
class ScaledTable(nn.Module):
    """A table that is a layer's weight, too, scaled: it stays one table, uncut."""

    def __init__(self):
        super().__init__()
        self.table, self.first = nn.Parameter(torch.randn(12, 16)), nn.Linear(6, 12)
        self.inner, self.outer, self.out = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.first(x)) @ self.table
        return self.out(F.linear(self.outer(F.relu(self.inner(x))), self.table * 0.5))
