"""Several streams of tokens, tables that depend on inputs, and other forms of diffusion models."""
import torch
import torch.nn.functional as F
from torch import nn

from micro_attention import HEADS, WIDTH
from micro_base import image, micro, sequence

DIMS = 8


def heads(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def two_streams(batch):
    return (torch.randn(batch, 6, WIDTH), torch.randn(batch, 4, WIDTH)), {}


class Joint(nn.Module):
    """Text and image tokens with projections of their own attend to all of both (SD3, Flux)."""

    def __init__(self):
        super().__init__()
        inner = HEADS * DIMS
        self.q, self.k, self.v, self.text_q, self.text_k, self.text_v = (nn.Linear(WIDTH, inner) for _ in range(6))
        self.out, self.text_out = nn.Linear(inner, WIDTH), nn.Linear(inner, WIDTH)

    def forward(self, x, text):
        q, k, v = (torch.cat((heads(own(text)), heads(other(x))), dim=2) for own, other in (
            (self.text_q, self.q), (self.text_k, self.k), (self.text_v, self.v)))
        y = self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.out(y[:, 4:]), self.text_out(y[:, :4])


@micro(two_streams, cut=["q", "k", "v", "text_q", "text_k", "text_v"])
class JointAttention(Joint):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


@micro(two_streams, cut=["q", "k", "v", "text_q", "text_k", "text_v"])
class JointAttentionByProducts(Joint):
    def attend(self, q, k, v):
        return (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v


class Turning(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * DIMS) for _ in range(3))
        self.out = nn.Linear(HEADS * DIMS, WIDTH)

    def forward(self, x, places):
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        angles = places[..., None] * torch.arange(1, DIMS // 2 + 1) / DIMS
        y = F.scaled_dot_product_attention(self.turn(q, angles), self.turn(k, angles), v)
        return self.out(y.transpose(1, 2).flatten(2))


def placed(batch):
    return (torch.randn(batch, 6, WIDTH), torch.rand(batch, 6)), {}


@micro(placed, cut=["q", "k", "v"])
class TurnedByGivenPlaces(Turning):
    """Angles follow an input, so that heads only go as a whole (Flux)."""

    def turn(self, x, angles):
        angles = angles.repeat_interleave(2, dim=-1).unsqueeze(1)
        real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((-imaginary, real), dim=-1).flatten(3)
        return x * angles.cos() + turned * angles.sin()


@micro(placed, cut=["q", "k", "v"])
class PairsWrittenInTurn(Turning):
    """Both halves of the pairs are written into an empty tensor (Wan)."""

    def turn(self, x, angles):
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        out = torch.empty_like(x)
        out[..., 0::2] = first * cos - second * sin
        out[..., 1::2] = first * sin + second * cos
        return out


@micro(image(3, 8), cut=["conv1", "conv2"])
class NormOfEachChannel(nn.Module):
    """A group norm of as many groups as channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm1, self.norm2 = nn.GroupNorm(8, 8), nn.GroupNorm(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.silu(self.norm1(self.conv1(x)))
        x = F.silu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


@micro(image(3, 8), cut=["embed", "mix"])
class PatchesByEinsum(nn.Module):
    """An einsum of one operand that only moves its axes."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.einsum("bchw->bhwc", self.embed(x).relu())
        return self.head(torch.einsum("bhwc->bchw", self.mix(x).relu()).mean((2, 3)))


@micro(image(3, 8), cut=["encode", "decode"], gradients=False)
class StoredAsBytes(nn.Module):
    """Floats made of bytes: their type is the default one (AutoencoderTiny)."""

    def __init__(self):
        super().__init__()
        self.encode, self.latent = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.decode, self.head = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        bytes_of = (self.latent(self.encode(x).relu()).sigmoid() * 255).round().byte()
        return self.head(self.decode(bytes_of / 255.0).relu())


@micro(image(3, 8), cut=["encode", "decode"])
class ViewOfMovedChannels(nn.Module):
    """A view that only some strides of a convolution's result allow (VQ)."""

    def __init__(self):
        super().__init__()
        self.encode, self.latent = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 1)
        self.register_buffer("codes", torch.randn(16, 3))
        self.decode, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        z = self.latent(self.encode(x).relu()).permute(0, 2, 3, 1).contiguous()
        near = (z.view(-1, 3) @ self.codes.t()).softmax(-1) @ self.codes
        return self.head(self.decode(near.view(z.shape).permute(0, 3, 1, 2)).relu())


@micro(lambda batch: ((torch.randn(batch, 6, WIDTH), torch.rand(batch, 6) > 0.3), {}), cut=["up"])
class MaskFilledWithFalse(nn.Module):
    """A number of an operator that is a truth value."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x, keep):
        keep = torch.ones_like(keep).masked_fill(~keep, False)
        return self.down(self.up(x).relu()) * keep.unsqueeze(-1)


@micro(sequence(WIDTH), cut=["q", "k", "v"])
class TableRepeatedForTheBatch(nn.Module):
    """Rotary tables of all heads that a forward makes for every sample; a pair does not turn (LTX)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * DIMS) for _ in range(3))
        self.out = nn.Linear(HEADS * DIMS, WIDTH)

    def forward(self, x):
        grid = torch.arange(x.shape[1]).float().unsqueeze(0).repeat(x.shape[0], 1)
        angles = (grid[..., None] * torch.linspace(0.1, 1, HEADS * DIMS // 2 - 1)).repeat_interleave(2, dim=-1)
        cos = torch.cat((torch.ones_like(angles[..., :2]), angles.cos()), dim=-1)
        sin = torch.cat((torch.zeros_like(angles[..., :2]), angles.sin()), dim=-1)

        def turn(y):
            real, imaginary = y.unflatten(2, (-1, 2)).unbind(-1)
            return y * cos + torch.stack((-imaginary, real), dim=-1).flatten(2) * sin

        y = F.scaled_dot_product_attention(heads(turn(self.q(x))), heads(turn(self.k(x))), heads(self.v(x)))
        return self.out(y.transpose(1, 2).flatten(2))
