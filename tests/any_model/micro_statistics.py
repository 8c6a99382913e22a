"""Statistics over units by other operators than a norm's, and tokens that are learned."""
import torch
import torch.nn.functional as F
from torch import nn

from micro_attention import HEADS, WIDTH, Block, heads_of, merge
from micro_base import Head, conv, image, micro, sequence


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image, written out."""

    def __init__(self, channels, moments):
        super().__init__()
        self.moments = moments
        self.scale = nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, channels, 1, 1))

    def forward(self, x):
        spread, mean = self.moments(x)
        return (x - mean) / (spread + 1e-2) * self.scale + self.shift


class NormedTwice(nn.Module):
    def __init__(self, moments):
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 16), Head(16)
        self.norm_a, self.norm_b = ChannelNorm(12, moments), ChannelNorm(16, moments)

    def forward(self, x):
        return self.head(F.relu(self.norm_b(self.b(F.relu(self.norm_a(self.a(x)))))))


@micro(image(3), cut=["a", "b"])
class VarianceOverChannels(NormedTwice):
    def __init__(self):
        super().__init__(lambda x: (torch.var(x, dim=1, unbiased=False, keepdim=True), x.mean(1, keepdim=True)))


@micro(image(3), cut=["a", "b"])
class DeviationOverChannels(NormedTwice):
    def __init__(self):
        super().__init__(lambda x: (x.std(1, keepdim=True), x.mean(1, keepdim=True)))


@micro(image(3), cut=["a", "b"])
class MomentsOverChannels(NormedTwice):
    def __init__(self):
        super().__init__(lambda x: torch.var_mean(x, dim=1, correction=0, keepdim=True))


@micro(image(3), cut=["a", "b"])
class SpatialAttention(nn.Module):
    """CBAM: a map from the mean and the maximum over channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.map, self.head = conv(3, 12), conv(12, 16), conv(2, 1, 5), Head(16)

    def gate(self, x):
        best, _ = torch.max(x, dim=1, keepdim=True)
        return x * self.map(torch.cat((best, x.mean(1, keepdim=True)), dim=1)).sigmoid()

    def forward(self, x):
        return self.head(self.gate(F.relu(self.b(self.gate(self.a(x))))))


@micro(image(3), cut=["b"])
class PlaceOfMaximum(nn.Module):
    """Which channel is largest: those have to stay."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 16), Head(16)

    def forward(self, x):
        x = self.a(x)
        best, place = x.max(1, keepdim=True)
        return self.head(F.relu(self.b(x * best))) + place.float().mean((1, 2, 3)).unsqueeze(1)


@micro(sequence(6), cut=["inner", "embed"])
class QueryNormedFirst(nn.Module):
    """CaiT, XCiT: a class token that is learned as a vector and normalised before it meets others."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(WIDTH))
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.inner, self.outer, self.out = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        token = self.token[None, None].expand(x.shape[0], 1, WIDTH)
        normed = self.norm(token)
        q, rest = heads_of(self.q(normed), HEADS), torch.cat((normed, self.embed(x)), dim=1)
        k, v = (heads_of(layer(rest), HEADS) for layer in (self.k, self.v))
        token = token + self.proj(merge(F.scaled_dot_product_attention(q, k, v)))
        return self.out(self.last(token + self.outer(F.gelu(self.inner(token))))[:, 0])


@micro(sequence(6), cut=["embed", "inner"])
class RegisterTokens(nn.Module):
    """Several learned tokens before the others, and an RMS norm by F.normalize."""

    def __init__(self):
        super().__init__()
        self.embed, self.registers = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(3, WIDTH))
        self.places, self.scale = nn.Parameter(torch.randn(9, WIDTH)), nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.inner, self.outer, self.out = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = torch.cat((self.registers[None].expand(x.shape[0], -1, -1), self.embed(x)), dim=1) + self.places
        normed = F.normalize(x, dim=-1) * 4 * self.scale
        return self.out((x + self.outer(F.gelu(self.inner(normed))))[:, 0])


@micro(sequence(6), cut=["embed", "inner"])
class MergedByQueries(nn.Module):
    """Learned queries times tokens: fewer tokens of the same width (patch merger, Perceiver)."""

    def __init__(self):
        super().__init__()
        self.embed, self.queries = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(4, WIDTH))
        self.norm, self.inner, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.norm(self.embed(x))
        x = (self.queries @ x.transpose(1, 2) * 0.25).softmax(-1) @ x
        return self.out(F.gelu(self.inner(x)))


@micro(sequence(6), cut=["qkv", "embed"])
class ChannelAttentionByEinsum(Block):
    """XCiT: attention between channels; only queries can lose some."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def attend(self, x):
        q, k, v = (heads_of(part, HEADS).transpose(-1, -2) for part in self.qkv(x).chunk(3, dim=-1))
        scores = torch.einsum("bhin,bhjn->bhij", F.normalize(q, dim=-1), F.normalize(k, dim=-1)).softmax(-1)
        return self.proj(merge(torch.einsum("bhij,bhjn->bhin", scores, v).transpose(-1, -2)))


@micro(sequence(6), cut=["inner"])
class SharedWithInput(nn.Module):
    """One vector is added to the input, which has to stay, and to units of the same number."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(6))
        self.a, self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.a(x) + self.shift + (x + self.shift).mean((1, 2), keepdim=True)
        return self.out(F.gelu(self.inner(x)))


@micro(sequence(6), cut=["embed", "inner"])
class MixedStreams(nn.Module):
    """Hyper-connections: several copies of the trunk, mixed by weights that each place computes."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH)
        self.alpha, self.beta = nn.Parameter(torch.randn(WIDTH, 3)), nn.Parameter(torch.randn(WIDTH))
        self.inner, self.outer, self.out = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = torch.stack((self.embed(x), self.embed(x + 1)), dim=-2)  # [B, T, streams, WIDTH]
        normed = self.norm(x)
        mixed = torch.einsum("...ab,...ac->...bc", (normed @ self.alpha).tanh(), x)
        x, rest = mixed[..., 0, :], mixed[..., 1:, :]
        x = self.outer(F.gelu(self.inner(x)))
        x = torch.einsum("abc,abd->abdc", x, normed @ self.beta) + rest
        return self.out(x.sum(-2))


@micro(sequence(6), cut=["embed", "inner"])
class ComputedPlaces(nn.Module):
    """Sinusoidal places that every forward computes anew, of nothing but numbers."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH)
        self.inner, self.out = nn.Linear(WIDTH, 24), nn.Linear(24, 5)

    def forward(self, x):
        speeds = torch.exp(torch.arange(0, WIDTH, 2) * (-9.0 / WIDTH))
        angles = torch.arange(6)[:, None] * speeds
        x = self.embed(x) + torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.out(F.gelu(self.inner(self.norm(x))).mean(1))


@micro(image(3), cut=["a", "mixed", "b"])
class FourierConvolution(nn.Module):
    """LaMa: a convolution of the spectrum, real and imaginary parts as channels."""

    def __init__(self):
        super().__init__()
        self.a, self.mixed, self.b = conv(3, 8), nn.Conv2d(16, 16, 1), conv(8, 12)
        self.head = Head(12)

    def forward(self, x):
        x = F.relu(self.a(x))
        spectrum = torch.fft.rfft2(x, norm="ortho")
        real, imaginary = F.relu(self.mixed(torch.cat([spectrum.real, spectrum.imag], dim=1))).chunk(2, dim=1)
        mixed = torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")
        return self.head(F.relu(self.b(x + mixed)))


@micro(lambda batch: ((torch.randn(batch, 6, 6, 3),), {}), cut=["a", "b"])
class GlobalFilter(nn.Module):
    """GFNet: tokens mixed by a filter of their spectrum, stored as pairs of numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 12)
        self.filter = nn.Parameter(torch.randn(6, 4, 8, 2))
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        x = self.a(x)
        spectrum = torch.fft.rfft2(self.norm(x), dim=(1, 2)) * torch.view_as_complex(self.filter)
        x = x + torch.fft.irfft2(spectrum, s=(6, 6), dim=(1, 2))
        return self.out(F.relu(self.b(x)).mean((1, 2)))
