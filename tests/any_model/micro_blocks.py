"""Residual trunks, norms and shared weights."""
import torch
import torch.nn.functional as F
from torch import nn

from micro_base import Head, conv, image, micro, series, tokens, vector


@micro(image(3), cut=["stem", "block1.a", "block2.a"])
class ResidualTrunk(nn.Module):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(16, 12, bias=False), conv(12, 16, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(12), nn.BatchNorm2d(16)

        def forward(self, x):
            return F.relu(x + self.bn2(self.b(F.relu(self.bn1(self.a(x))))))

    def __init__(self):
        super().__init__()
        self.stem, self.block1, self.block2, self.head = conv(3, 16), self.Block(), self.Block(), Head(16)

    def forward(self, x):
        return self.head(self.block2(self.block1(self.stem(x))))


@micro(image(3), cut=["stem", "grouped2", "grouped4"])
class GroupCountsOfOneTrunk(nn.Module):
    """Two group counts on the same channels: blocks of the common refinement."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 16)
        self.grouped2, self.grouped4 = conv(16, 16, groups=2), conv(16, 16, groups=4)
        self.head = Head(16)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.grouped2(x))
        return self.head(F.relu(x + self.grouped4(x)))


@micro(image(3), cut=["stem", "layer1", "layer2"])
class DenseBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.bn1, self.layer1 = nn.BatchNorm2d(8), conv(8, 6)
        self.bn2, self.layer2 = nn.BatchNorm2d(14), conv(14, 6)
        self.bn3, self.head = nn.BatchNorm2d(20), Head(20)

    def forward(self, x):
        features = [self.stem(x)]
        features.append(self.layer1(F.relu(self.bn1(features[0]))))
        features.append(self.layer2(F.relu(self.bn2(torch.cat(features, 1)))))
        return self.head(F.relu(self.bn3(torch.cat(features, 1))))


@micro(image(3), cut=["down", "bottom"])
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.bottom = conv(3, 8), conv(8, 16)
        self.up, self.merge, self.out = nn.ConvTranspose2d(16, 8, 2, 2), conv(16, 8), conv(8, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        x = F.relu(self.bottom(F.max_pool2d(skip, 2)))
        return self.out(F.relu(self.merge(torch.cat([skip, self.up(x)], dim=1))))


@micro(image(3), cut=["conv1"])
class GroupNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2, self.head = conv(3, 16), nn.GroupNorm(4, 16), conv(16, 8), Head(8)

    def forward(self, x):
        return self.head(F.relu(self.conv2(F.silu(self.norm(self.conv1(x))))))


@micro(image(3), cut=["conv1", "conv2"])
class InstanceNorm(nn.Module):
    """With running statistics, then without."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = conv(3, 10), nn.InstanceNorm2d(10, affine=True, track_running_stats=True)
        self.conv2, self.norm2 = conv(10, 8), nn.InstanceNorm2d(8)
        self.conv3 = conv(8, 3)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv3(F.leaky_relu(self.norm2(self.conv2(x)), 0.2))


@micro(vector(6), cut=["fc1", "fc2"])
class LayerNormMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.fc2, self.out = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.out(F.gelu(self.fc2(self.norm(self.fc1(x)))))


@micro(vector(6), cut=["fc1", "fc2"])
class RmsNormMlp(nn.Module):
    """torch's own and the one written out in float, as language models have it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 16), nn.RMSNorm(16), nn.Linear(16, 12)
        self.scale, self.out = nn.Parameter(torch.rand(12) + 0.5), nn.Linear(12, 4)

    def forward(self, x):
        x = self.fc2(self.norm(self.fc1(x))).to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.out(self.scale * x.to(torch.float32))


@micro(image(3), cut=["stem", "wide"])
class ConvNextBlock(nn.Module):
    """Channels last inside, layer norm, layer scale."""

    def __init__(self):
        super().__init__()
        self.stem, self.depth = conv(3, 12), conv(12, 12, 7, groups=12)
        self.norm, self.wide, self.narrow = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.scale, self.head = nn.Parameter(torch.rand(12) + 0.5), Head(12)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        return self.head(x + y.permute(0, 3, 1, 2))


@micro(vector(6), cut=["packed"])
class PackedSwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.packed, self.down, self.out = nn.Linear(6, 24), nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        value, gate = self.packed(x).chunk(2, dim=-1)
        return self.out(x + self.down(value * F.silu(gate)))


@micro(vector(6), cut=["up", "gate"])
class TwoLinearSwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x):
        return self.down(self.up(x) * F.silu(self.gate(x)))


@micro(image(3), cut=["conv1", "conv2"])
class PReluAndScales(nn.Module):
    """Per-channel and shared slopes, a free parameter, a buffer used as a constant."""

    def __init__(self):
        super().__init__()
        self.conv1, self.many, self.one = conv(3, 10), nn.PReLU(10), nn.PReLU()
        self.shift = nn.Parameter(torch.randn(10, 1, 1))
        self.register_buffer("mean", torch.randn(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.rand(1, 8, 1, 1) + 0.5)
        self.conv2, self.head = conv(10, 8), Head(8)

    def forward(self, x):
        x = self.many(self.conv1((x - self.mean) / torch.tensor(0.7))) + self.shift
        return self.head(self.one(self.conv2(x)) * self.scale)


@micro(image(3), cut=["stem", "shared"])
class SharedModule(nn.Module):
    """One convolution called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = conv(3, 12), conv(12, 12), Head(12)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.shared(F.relu(self.shared(x)))))


@micro(image(3), cut=["a"])
class SharedTensor(nn.Module):
    """Two convolutions that hold the same tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.mix, self.head = conv(3, 10), conv(3, 10), conv(20, 8), Head(8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(F.relu(self.mix(torch.cat([self.a(x).relu(), self.b(x * 0.5).relu()], 1))))


@micro(vector(12), cut=["encode"])
class TransposedWeight(nn.Module):
    """A parameter used in two roles: an auto-encoder that decodes with the transposed weight."""

    def __init__(self):
        super().__init__()
        self.encode, self.bias = nn.Linear(12, 8), nn.Parameter(torch.randn(12))

    def forward(self, x):
        return F.linear(F.relu(self.encode(x)), self.encode.weight.t(), self.bias)


@micro(tokens(17), cut=["fc1", "embed@1"])
class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc1, self.fc2 = nn.Embedding(17, 12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 17, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(x + self.fc2(F.relu(self.fc1(x))))


@micro(image(3), cut=["stem", "value"])
class SingleGates(nn.Module):
    """FocalNet: a slice of one channel gates all channels of another branch, so it stays."""

    def __init__(self):
        super().__init__()
        self.stem, self.gates, self.value, self.head = conv(3, 12), conv(12, 2, 1), conv(12, 16), Head(16)

    def forward(self, x):
        x = F.relu(self.stem(x))
        gates, value = self.gates(x), self.value(x)
        return self.head(F.relu(value * gates[:, 0:1] + value.mean((2, 3), keepdim=True) * gates[:, 1:]))


@micro(image(3), cut=["paths", "wide"])
class SelectiveKernel(nn.Module):
    """ResNeSt, SKNet: softmax over the paths; a channel goes from all of them."""

    def __init__(self):
        super().__init__()
        self.paths, self.narrow, self.wide = conv(3, 24), conv(12, 8, 1), conv(8, 24, 1)
        self.head = Head(12)

    def forward(self, x):
        x = F.relu(self.paths(x)).view(x.shape[0], 2, 12, *x.shape[2:])
        weights = self.wide(F.relu(self.narrow(x.sum(1).mean((2, 3), keepdim=True))))
        weights = weights.view(x.shape[0], 2, 12, 1, 1).softmax(1)
        return self.head((x * weights).sum(1))


@micro(image(3), cut=["inner"])
class StandardisedWeights(nn.Module):
    """NFNet: weights normalised by batch_norm without running statistics, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.stem, self.gain = conv(3, 12), nn.Parameter(torch.rand(12) + 0.5)
        self.inner, self.outer, self.head = conv(12, 16, 1), conv(16, 12, 1), Head(12)

    def forward(self, x):
        weight = self.stem.weight.reshape(1, 12, -1)
        weight = F.batch_norm(weight, None, None, weight=self.gain, training=True, momentum=0.0)
        x = F.relu(F.conv2d(x, weight.reshape_as(self.stem.weight), self.stem.bias, padding=1))
        return self.head(x + self.outer(F.relu(self.inner(x))))


@micro(image(3, 12), cut=["stem", "inner"], dynamic=False)
class ResizedPositions(nn.Module):
    """A table of positions made for another image size: its first row beside the others, resized."""

    def __init__(self):
        super().__init__()
        self.stem, self.token = nn.Conv2d(3, 16, 3, stride=3), nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 10, 16))
        self.norm, self.inner, self.outer = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1)
        first, grid = self.positions[:, :1], self.positions[:, 1:]
        grid = grid.reshape(1, 3, 3, 16).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(4, 4), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 16, 16)
        x = x + torch.cat((first, grid), dim=1)
        return self.fc((x + self.outer(F.gelu(self.inner(self.norm(x)))))[:, 0])


@micro(tokens(11), cut=["table@1", "inner"])
class SelectedRows(nn.Module):
    """Positions by index_select (XGLM), and a norm whose weight is stored less one (Nemotron)."""

    def __init__(self):
        super().__init__()
        self.table, self.weight = nn.Embedding(11, 16), nn.Parameter(torch.randn(16))
        self.register_buffer("positions", torch.randn(9, 16))
        self.register_buffer("order", torch.arange(6))
        self.inner, self.outer, self.fc = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, ids):
        x = self.table(ids) + self.positions.index_select(0, self.order + 2)
        inner = F.layer_norm(x, (16,), self.weight + 1.0, None)
        return self.fc((x + self.outer(F.gelu(self.inner(inner)))).mean(1))


@micro(image(3), cut=["left", "right"])
class GroupNormOfJoined(nn.Module):
    """UNet: 24 and 16 channels side by side in four groups of 10; before, the 24 in four of 6."""

    def __init__(self):
        super().__init__()
        self.left, self.right = conv(3, 24), conv(3, 16)
        self.norm1, self.norm2 = nn.GroupNorm(4, 24), nn.GroupNorm(4, 40)
        self.mix, self.head = conv(40, 12), Head(12)

    def forward(self, x):
        left = F.silu(self.norm1(self.left(x)))
        return self.head(F.silu(self.mix(F.silu(self.norm2(torch.cat((left, self.right(x)), 1))))))


@micro(series(3), cut=["stem", "kernel"])
class KernelMovedFirst(nn.Module):
    """Mamba: the kernel of a depthwise convolution is stored without its axis of one channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.kernel = nn.Conv1d(3, 12, 1), nn.Parameter(torch.randn(12, 3))
        self.out = nn.Linear(12, 5)

    def forward(self, x):
        x = F.conv1d(F.relu(self.stem(x)), self.kernel.unsqueeze(1), padding=1, groups=12)
        return self.out(F.silu(x).mean(2))


@micro(image(3), cut=["stem", "inner"])
class UnitLengthAndFold(nn.Module):
    """F.normalize over the channels (SwiftFormer); patches unfolded and folded (MobileViT v2)."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.head = conv(3, 16), conv(16, 12, 1), Head(12)

    def forward(self, x):
        x = F.normalize(F.relu(self.stem(x)), dim=1)
        patches = F.unfold(self.inner(x), 2, stride=2)
        return self.head(F.relu(F.fold(patches * 0.5, (8, 8), 2, stride=2)))
