"""Convolutions, what is done to their channels on the way, and norms."""
import torch
import torch.nn.functional as F
from torch import nn

from micro_base import Head, conv, image, micro, series, vector, volume


@micro(image(3), cut=["conv1", "conv2"])
class PlainConvs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2, self.head = conv(3, 16), nn.BatchNorm2d(16), conv(16, 24), Head(24)

    def forward(self, x):
        return self.head(F.relu(self.conv2(F.relu_(self.bn(self.conv1(x))))))


@micro(image(3), cut=["conv1", "grouped"])
class GroupedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.grouped = conv(3, 16), conv(16, 24, groups=4)
        self.bn, self.head = nn.BatchNorm2d(24), Head(24)

    def forward(self, x):
        return self.head(F.relu(self.bn(self.grouped(F.relu(self.conv1(x))))))


@micro(series(3), cut=["conv1"])
class KernelOfOnePlace(nn.Module):
    """Two tokens stacked as channels of a convolution (CoaT): the cut runs over its space."""

    def __init__(self):
        super().__init__()
        self.conv1, self.mix, self.out = nn.Conv1d(3, 12, 3), nn.Conv1d(2, 4, 1), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.out(F.relu(self.mix(torch.stack((x.mean(2), x.amax(2)), dim=1)))).mean(1)


@micro(image(3), cut=["conv1", "depthwise"])
class DepthwiseMultiplier(nn.Module):
    """Example 8: multiplier 2, so that outputs go in pairs with their input."""

    def __init__(self):
        super().__init__()
        self.conv1, self.depthwise = conv(3, 8), conv(8, 16, groups=8)
        self.point, self.head = conv(16, 12, 1), Head(12)

    def forward(self, x):
        return self.head(F.relu(self.point(F.silu(self.depthwise(F.relu(self.conv1(x)))))))


@micro(image(3), cut=["conv1", "up@1"])
class TransposedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.up = conv(3, 16, stride=2), nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.bn, self.conv2 = nn.BatchNorm2d(12), conv(12, 3)

    def forward(self, x):
        return self.conv2(F.relu(self.bn(self.up(F.relu(self.conv1(x))))))


@micro(image(3), cut=["conv1"])
class GroupedTransposedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = conv(3, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2, groups=4)
        self.depth = nn.ConvTranspose2d(16, 16, 3, padding=1, groups=16)
        self.conv2 = conv(16, 3)

    def forward(self, x):
        return self.conv2(F.relu(self.depth(F.relu(self.up(F.relu(self.conv1(x)))))))


@micro(series(4), cut=["conv1", "conv2"])
class ConvsOneD(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv1d(4, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.conv2, self.head = nn.Conv1d(16, 12, 3, dilation=2), Head(12)

    def forward(self, x):
        return self.head(F.gelu(self.conv2(F.max_pool1d(self.bn(self.conv1(x)).relu(), 2))))


@micro(volume(2), cut=["conv1", "conv2"])
class ConvsThreeD(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.conv2, self.head = nn.Conv3d(8, 12, 3), Head(12)

    def forward(self, x):
        return self.head(self.conv2(F.avg_pool3d(F.relu(self.bn(self.conv1(x))), 2)))


@micro(image(3, 4), cut=["conv1", "fc1"])
class FlattenChannelsFirst(nn.Module):
    """Example 1: a channel is a run of 16 columns."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc1, self.fc2 = conv(3, 8), nn.Linear(128, 20), nn.Linear(20, 10)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(F.relu(self.conv1(x)).flatten(1))))


@micro(image(3, 4), cut=["conv1", "fc1"])
class FlattenChannelsLast(nn.Module):
    """A channel is every eighth column."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc1, self.fc2 = conv(3, 8), nn.Linear(128, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x)).permute(0, 2, 3, 1)
        return self.fc2(F.relu(self.fc1(x.reshape(x.shape[0], -1))))


@micro(image(3, 4), cut=["a", "b"])
class ConcatOfFlattens(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(3, 4, stride=2), nn.Linear(6 * 16 + 4 * 4, 7)

    def forward(self, x):
        return self.fc(torch.cat([F.relu(self.a(x)).flatten(1), F.relu(self.b(x)).flatten(1)], 1))


@micro(image(3), cut=["a", "b", "c"])
class CascadedConcats(nn.Module):
    """Examples 2 and 10: offsets add up."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(3, 6), conv(3, 5)
        self.mix, self.head = conv(15, 8, 1), Head(8)

    def forward(self, x):
        inner = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(F.relu(self.mix(torch.cat([inner, self.c(x)], 1).relu())))


@micro(image(3), cut=["conv1"])
class ConcatWithItself(nn.Module):
    """CReLU and cat(x, x)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 8), conv(16, 6), Head(12)

    def forward(self, x):
        x = self.conv1(x)
        x = self.conv2(F.relu(torch.cat([x, -x], dim=1)))
        return self.head(torch.cat([x, x], dim=1))


@micro(image(3), cut=["conv1", "left", "right"])
class SplitBySizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.left, self.right = conv(3, 20), conv(8, 12), conv(12, 12)
        self.head = Head(12)

    def forward(self, x):
        a, b = torch.split(F.relu(self.conv1(x)), [8, 12], dim=1)
        return self.head(F.relu(self.left(a) + self.right(b)))


@micro(image(3), cut=["stem", "inner", "out"])
class ChunkAndConcat(nn.Module):
    """C2f of the YOLO family: chunk, a chain on one half, concat of everything."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = conv(3, 16), conv(8, 8)
        self.inner2, self.out, self.head = conv(8, 8), conv(32, 12, 1), Head(12)

    def forward(self, x):
        parts = list(F.silu(self.stem(x)).chunk(2, 1))
        for layer in (self.inner, self.inner2):
            parts.append(F.silu(layer(parts[-1])))
        return self.head(F.silu(self.out(torch.cat(parts, 1))))


@micro(image(3), cut=["conv1"])
class ChunkGate(nn.Module):
    """GLU over channels: x_i goes with x_(i + n/2)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 16), conv(8, 8), Head(8)

    def forward(self, x):
        a, b = self.conv1(x).chunk(2, dim=1)
        return self.head(self.conv2(a * torch.sigmoid(b)))


@micro(image(3), cut=["conv1"])
class FunctionalGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 16), conv(8, 8), Head(8)

    def forward(self, x):
        return self.head(self.conv2(F.glu(self.conv1(x), dim=1)))


@micro(image(3), cut=["conv1"])
class UnbindStackSum(nn.Module):
    """Stacks branches and sums over them; unbinds a factorised channel axis."""

    def __init__(self):
        super().__init__()
        self.conv1, self.a, self.b, self.head = conv(3, 16), conv(8, 10), conv(8, 10), Head(10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        first, second = x.view(x.shape[0], 2, 8, 8, 8).unbind(1)
        return self.head(torch.stack([self.a(first), self.b(second)], 0).sum(0))


@micro(image(3), cut=["conv1"])
class NarrowAndSlices(nn.Module):
    """Contiguous and strided slices of channels and of space."""

    def __init__(self):
        super().__init__()
        self.conv1, self.a, self.b, self.head = conv(3, 16), conv(6, 8), conv(8, 8), Head(8)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        head, odd = x.narrow(1, 2, 6), x[:, 1::2]
        return self.head(self.a(head[:, :, ::2, 1:5]) + self.b(odd)[:, :, ::2, 1:5])


@micro(image(3), cut=["conv1"])
class ChannelGather(nn.Module):
    """Constant index lists: a permutation, then a list with repeats."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 12), conv(12, 8), Head(6)
        self.register_buffer("order", torch.randperm(12))
        self.register_buffer("chosen", torch.tensor([0, 2, 2, 5, 7, 6]))

    def forward(self, x):
        x = F.relu(self.conv1(x)).index_select(1, self.order)
        return self.head(F.relu(self.conv2(x))[:, self.chosen])


@micro(image(3), cut=["conv1"])
class ChannelShuffle(nn.Module):
    """Example 6, with a grouped convolution before and after: no channel between them can go without
    leaving unequal blocks to one of the two, so conv2's rows are pinned."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 12), conv(12, 12, groups=3)
        self.conv3, self.head = conv(12, 12, groups=3), Head(12)

    def forward(self, x):
        x = self.conv2(F.relu(self.conv1(x)))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.conv3(F.relu(x))))


@micro(image(3), cut=["conv1", "conv2"])
class PixelShuffle(nn.Module):
    """Example 7: the four outputs of one pixel go together."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 12), conv(12, 24), conv(6, 3)

    def forward(self, x):
        return self.conv3(F.relu(F.pixel_shuffle(self.conv2(F.relu(self.conv1(x))), 2)))


@micro(image(3), cut=["conv1", "conv2"])
class PixelUnshuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 6), conv(24, 10), Head(10)

    def forward(self, x):
        return self.head(F.relu(self.conv2(F.pixel_unshuffle(F.relu(self.conv1(x)), 2))))


@micro(image(3), cut=["conv1", "conv2"])
class RollOverChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 10), conv(10, 8), Head(8)

    def forward(self, x):
        x = torch.roll(F.relu(self.conv1(x)), 3, dims=1)
        return self.head(F.relu(self.conv2(torch.roll(x.flip(1), (1, 2), dims=(2, 3)))))


@micro(image(3), cut=["stem", "wide"])
class OptionAShortcut(nn.Module):
    """Example 5: the shortcut is strided and padded with zero channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide, self.bn = conv(3, 16), conv(16, 32, stride=2), nn.BatchNorm2d(32)
        self.head = Head(32)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)) + self.bn(self.wide(x))))


@micro(image(3), cut=["conv1"])
class SpatialPads(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = conv(3, 12), conv(12, 8, padding=0), Head(8)

    def forward(self, x):
        x = F.pad(F.relu(self.conv1(x)), (1, 1, 2, 0), mode="reflect")
        x = F.pad(F.interpolate(x, scale_factor=2.0, mode="nearest"), (1, 0, 0, 1))
        return self.head(F.relu(self.conv2(x)))


@micro(image(3), cut=["conv1"])
class UnfoldPatches(nn.Module):
    """im2col: a channel is a run of nine columns of the linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc, self.out = conv(3, 8), nn.Linear(72, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.unfold(F.relu(self.conv1(x)), 3, stride=2).transpose(1, 2)
        return self.out(F.relu(self.fc(x)).mean(1))


@micro(image(3), cut=["conv1", "squeeze"])
class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.squeeze, self.excite = conv(3, 16), conv(16, 6, 1), conv(6, 16, 1)
        self.conv2, self.head = conv(16, 8), Head(8)

    def forward(self, x):
        x = F.hardswish(self.conv1(x))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.conv2(x * gate))


@micro(image(3), cut=["conv1", "conv2"])
class SpatialGate(nn.Module):
    """A gate of one channel, and statistics over channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.gate, self.conv2, self.head = conv(3, 12), conv(12, 1), conv(12, 8), Head(8)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.head(F.relu(self.conv2(x * torch.sigmoid(self.gate(x)))))


@micro(image(3))
class ChannelStatistics(nn.Module):
    """CBAM: mean and maximum over the channels feed a spatial gate."""

    def __init__(self):
        super().__init__()
        self.conv1, self.gate, self.conv2, self.head = conv(3, 12), conv(2, 1), conv(12, 8), Head(8)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(F.relu(self.conv2(x * torch.sigmoid(self.gate(seen)))))
