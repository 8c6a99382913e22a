"""Inputs, outputs, types and regions of code that are not the usual ones."""
import torch
import torch.nn.functional as F
from torch import nn

from micro_base import Head, conv, image, micro, vector


def _two(batch):
    return (torch.randn(batch, 6), torch.randint(0, 9, (batch, 4))), {}


@micro(_two, cut=["dense", "table@1", "fc"])
class SeveralInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.table = nn.Linear(6, 10), nn.Embedding(9, 8)
        self.fc, self.out = nn.Linear(18, 12), nn.Linear(12, 3)

    def forward(self, values, categories):
        x = torch.cat([F.relu(self.dense(values)), self.table(categories).mean(1)], dim=1)
        return self.out(F.relu(self.fc(x)))


def _keywords(batch):
    mask = torch.ones(batch, 5, dtype=torch.bool)
    mask[:, 3:] = False
    return (torch.randn(batch, 5, 6),), {"mask": mask, "scale": torch.rand(batch, 1) + 0.5,
                                         "flag": True, "note": "constant inputs"}


@micro(_keywords, cut=["fc"])
class KeywordInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x, mask=None, scale=None, flag=True, note="unused"):
        x = F.relu(self.fc(x)).masked_fill(~mask.unsqueeze(-1), 0.0)
        return self.out(x.sum(1)) * scale if flag else x


def _nested(batch):
    return ({"left": torch.randn(batch, 4), "right": [torch.randn(batch, 4), torch.randn(batch, 3)]},), {}


def _nested_shapes(batch):
    return ({"left": {0: batch}, "right": [{0: batch}, {0: batch}]},)


@micro(_nested, cut=["a", "b"], shapes=_nested_shapes)
class NestedInputsAndOutputs(nn.Module):
    """Dicts and lists in, a dict with a list, a None and a number out."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(3, 10), nn.Linear(10, 2)

    def forward(self, data):
        x = F.relu(self.a(data["left"] + data["right"][0]))
        y = self.c(x + F.relu(self.b(data["right"][1])))
        return {"logits": y, "parts": [y.softmax(-1), y.argmax(-1)], "cache": None, "steps": 3}


@micro(image(3), cut=["conv1"])
class SeveralOutputs(nn.Module):
    """Two heads, and the features themselves: what leaves the network keeps its width."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 16), conv(16, 8)
        self.boxes, self.classes = conv(16, 4), Head(8)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        features = F.relu(self.conv2(x))
        return self.classes(features), self.boxes(x), features


@micro(image(3), cut=["conv1", "conv2"], gradients=False)
class InPlaceCalls(nn.Module):
    """Calls that overwrite their operand, also through views and on the input itself: eager PyTorch
    cannot differentiate it either."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 12), conv(12, 12), Head(12)

    def forward(self, x):
        x = x.mul_(2.0).clamp_(-3, 3)
        y = self.conv1(x).relu_()
        y += self.conv2(y)
        y[:, :, 0] *= 0.5
        return self.head(y.add_(y.sigmoid()))


@micro(image(3), cut=["conv1"])
class MultiScaleSum(nn.Module):
    """Feature pyramid: upsample, add, several heads of one weight."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 10), conv(10, 12, stride=2)
        self.side1, self.side2, self.head = conv(10, 8, 1), conv(12, 8, 1), conv(8, 4)

    def forward(self, x):
        a = F.relu(self.conv1(x))
        b = F.relu(self.conv2(a))
        low = self.side2(b)
        high = self.side1(a) + F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return [self.head(high), self.head(low)]


@micro(image(3), cut=["conv1"])
class HalfPrecisionCasts(nn.Module):
    """Casts on the way."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 12), conv(12, 8), Head(8)

    def forward(self, x):
        x = F.relu(self.conv1(x)).double()
        return self.head(F.relu(self.conv2(x.float())))


class _Typed(nn.Module):
    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 4)
        self.to(self.dtype)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.to(self.dtype))))


@micro(lambda batch: ((torch.randn(batch, 8).bfloat16(),), {}), cut=["fc1"])
class BFloatNetwork(_Typed):
    dtype = torch.bfloat16


@micro(lambda batch: ((torch.randn(batch, 8).half(),), {}), cut=["fc1"])
class HalfNetwork(_Typed):
    dtype = torch.float16


@micro(lambda batch: ((torch.randn(batch, 8).double(),), {}), cut=["fc1"])
class DoubleNetwork(_Typed):
    dtype = torch.float64


@micro(lambda batch: ((torch.randint(0, 255, (batch, 3, 8, 8), dtype=torch.uint8),), {}), cut=["conv1"])
class ByteImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.head = conv(3, 12), Head(12)

    def forward(self, x):
        return self.head(F.relu(self.conv1(x.float() / 255.0)))


@micro(lambda batch: ((torch.randn(4, 8),), {}), cut=["fc1"], dynamic=False)
class FixedBatch(_Typed):
    pass


@micro(vector(6), cut=["fc1", "fc2"], keeps_json=False)
class GradModeRegions(nn.Module):
    """torch.no_grad() and torch.autocast() inside of forward: sub-graphs that only switch modes."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 3)
        self.register_buffer("turns", torch.randn(12), persistent=False)

    def forward(self, x):
        x = self.fc1(x)
        with torch.no_grad():
            scale = (self.turns * 0.1).exp()
            shift = scale.cos() + x.shape[0]
        with torch.autocast("cpu", enabled=False):
            x = self.fc2(F.relu(x * scale.float() + shift))
        return self.out(F.relu(x))


@micro(vector(6), cut=["fc1"], shapes=lambda batch: ({0: torch.export.Dim("batch", min=1, max=4096)},))
class CheckedSizes(nn.Module):
    """Runtime assertions about sizes and dtypes stand between the layers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.out = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        torch._check(x.shape[0] <= 4096)
        x = F.relu(self.fc1(x.to(torch.float32)))
        return self.out(x.reshape(x.shape[0], -1))
