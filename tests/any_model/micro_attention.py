"""Attention in the forms model zoos write it, and recurrent layers."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from micro_base import image, micro, sequence, tokens

WIDTH, HEADS = 16, 4


def heads_of(x, heads):
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge(x):
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Block(nn.Module):
    """Pre-norm residual block around `attend`, a method of the derived class, then a read-out."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.embed(x)
        return self.out(x + self.attend(self.norm(x)))


@micro(sequence(6), cut=["q", "v"])
class SeparateQkv(Block):
    """One head, softmax(q k^T) v written out."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 12) for _ in range(3))
        self.proj = nn.Linear(12, WIDTH)

    def attend(self, x):
        weights = (self.q(x) @ self.k(x).transpose(-2, -1) / math.sqrt(12)).softmax(dim=-1)
        return self.proj(weights @ self.v(x))


@micro(sequence(6), cut=["qkv"])
class PackedQkv(Block):
    """Example 3: view(B, T, 3, h, d), then unbind."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def attend(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * (WIDTH // HEADS) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, WIDTH))


@micro(sequence(6), cut=["qkv"])
class PackedQkvChunks(Block):
    """GPT-2's form: split in three, then heads; fused attention with a causal mask."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def attend(self, x):
        q, k, v = (heads_of(part, HEADS) for part in self.qkv(x).split(WIDTH, dim=2))
        return self.proj(merge(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


@micro(sequence(6), cut=["attention.in_proj_weight@0"])
class TorchMultihead(Block):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def attend(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@micro(sequence(6), cut=["q", "k", "v"])
class GroupedQueries(Block):
    """Example 4: key and value heads are repeated by repeat_interleave."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
        self.proj = nn.Linear(32, WIDTH)

    def attend(self, x):
        q, k, v = heads_of(self.q(x), 8), heads_of(self.k(x), 2), heads_of(self.v(x), 2)
        k, v = k.repeat_interleave(4, dim=1), v.repeat_interleave(4, dim=1)
        return self.proj(merge(F.scaled_dot_product_attention(q, k, v)))


@micro(sequence(6), cut=["q", "k", "v"])
class GroupedQueriesExpanded(Block):
    """The form of the language models: unsqueeze, expand, reshape."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
        self.proj = nn.Linear(32, WIDTH)

    def attend(self, x):
        q, k, v = heads_of(self.q(x), 8), heads_of(self.k(x), 2), heads_of(self.v(x), 2)

        def repeated(y):
            b, h, t, d = y.shape
            return y[:, :, None].expand(b, h, 4, t, d).reshape(b, h * 4, t, d)

        weights = torch.matmul(q, repeated(k).transpose(2, 3)) * 0.5
        return self.proj(merge(weights.softmax(-1) @ repeated(v)))


def rotary_tables(length, dim):
    angles = torch.arange(length)[:, None] / 100.0 ** (torch.arange(0, dim, 2) / dim)
    return angles


@micro(sequence(6), cut=["v"])
class RotaryHalves(Block):
    """Feature t turns with t + d/2."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        angles = rotary_tables(6, 4)
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin(), persistent=False)

    def turn(self, x):
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * self.sin

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        return self.proj(merge(F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)))


@micro(sequence(6), cut=["v"])
class RotaryInterleaved(Block):
    """Features 2t and 2t + 1 turn together."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        angles = rotary_tables(6, 4)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x):
        even, odd = x[..., ::2], x[..., 1::2]
        turned = torch.stack([even * self.cos - odd * self.sin, even * self.sin + odd * self.cos], -1)
        return turned.flatten(-2)

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        return self.proj(merge(F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)))


@micro(sequence(6), cut=["v"])
class RelativePositionBias(Block):
    """A table [distances, heads] whose heads follow the heads."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.table = nn.Parameter(torch.randn(11, HEADS))
        position = torch.arange(6)
        self.register_buffer("distance", position[:, None] - position[None] + 5)

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        bias = self.table[self.distance.view(-1)].view(6, 6, -1).permute(2, 0, 1).contiguous()
        weights = (q @ k.transpose(-2, -1) * 0.5 + bias.unsqueeze(0)).softmax(dim=-1)
        return self.proj(merge(weights @ v))


@micro(image(6), cut=["mlp"])
class WindowAttention(nn.Module):
    """Shifted windows: roll, partition, attention, and all the way back."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(6, WIDTH, 1), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.out = nn.Linear(WIDTH, 5)

    def attend(self, x):
        b, h, w, c = x.shape
        x = torch.roll(x, (-2, -2), dims=(1, 2))
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        x = self.proj(merge(((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v))
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, (2, 2), dims=(1, 2))

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        x = x + self.attend(self.norm(x))
        x = x + self.down(F.gelu(self.mlp(x)))
        return self.out(x.mean(dim=(1, 2)))


def _cross(batch):
    return (torch.randn(batch, 6, 6), torch.randn(batch, 4, 10)), {}


@micro(_cross, cut=["q", "k", "v"])
class CrossAttention(nn.Module):
    """Keys and values from another sequence of another width."""

    def __init__(self):
        super().__init__()
        self.embed, self.q = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(10, WIDTH), nn.Linear(10, WIDTH)
        self.proj, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x, context):
        x = self.embed(x)
        q, k, v = heads_of(self.q(x), HEADS), heads_of(self.k(context), HEADS), heads_of(self.v(context), HEADS)
        return self.out(x + self.proj(merge(F.scaled_dot_product_attention(q, k, v))))


@micro(_cross, cut=["embed"])
class TorchCrossAttention(nn.Module):
    """nn.MultiheadAttention with key and value widths of their own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, kdim=10, vdim=10, batch_first=True)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x, context):
        x = self.embed(x)
        return self.out(x + self.attention(x, context, context, need_weights=False)[0])


@micro(sequence(6), cut=["q", "v"])
class EinsumAttention(Block):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 12) for _ in range(3))
        self.proj = nn.Linear(12, WIDTH)

    def attend(self, x):
        weights = torch.einsum("btd,bsd->bts", self.q(x), self.k(x)).softmax(-1)
        return self.proj(torch.einsum("bts,bsd->btd", weights, self.v(x)))


@micro(image(3), cut=["a", "b"])
class EinsumOverChannels(nn.Module):
    """einsum('bchw,bchw->bhw') contracts the channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1)
        self.out = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        return self.out(torch.einsum("bchw,bchw->bhw", self.a(x), self.b(x)).unsqueeze(1))


@micro(tokens(19), cut=["mlp", "embed@1"])
class TokenTransformer(nn.Module):
    """Class token, learned positions, layer scale, post-norm."""

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Embedding(19, WIDTH), nn.Parameter(torch.randn(1, 7, WIDTH))
        self.token, self.scale = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.rand(WIDTH))
        self.mlp, self.down, self.norm = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, ids):
        x = self.embed(ids)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = self.norm(x + self.scale * self.down(F.gelu(self.mlp(x))))
        return self.out(x[:, 0])


@micro(sequence(6), cut=["encoder.linear1"])
class TorchEncoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.out(self.encoder(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    """The layer's outputs at every step, and its last state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        width = layer.hidden_size * (2 if layer.bidirectional else 1)
        self.out = nn.Linear(width, 5)

    def forward(self, x):
        y, _ = self.layer(x)
        return self.out(y)


@micro(sequence(6), cut=["layer.weight_hh_l0@1"])
class UniLstm(Recurrent):
    def __init__(self):
        super().__init__(nn.LSTM(6, 10, batch_first=True))


@micro(sequence(6), cut=["layer.weight_hh_l0@1", "layer.weight_hh_l0_reverse@1"])
class BidirectionalLstm(Recurrent):
    """Example 9."""

    def __init__(self):
        super().__init__(nn.LSTM(6, 8, batch_first=True, bidirectional=True))


@micro(sequence(6), cut=["layer.weight_hh_l0@1", "layer.weight_hh_l1@1"])
class StackedGru(Recurrent):
    def __init__(self):
        super().__init__(nn.GRU(6, 10, num_layers=2, batch_first=True, bidirectional=True))


@micro(lambda batch: ((torch.randn(7, batch, 6), torch.randn(1, batch, 10)), {}),
       shapes=lambda batch: ({1: batch}, {1: batch}))
class TimeFirstRnn(nn.Module):
    """Time is the first axis. The first state is an input, so its width is the user's."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.GRU(6, 10), nn.Linear(10, 5)

    def forward(self, x, state):
        y, last = self.layer(x, state * 0)
        return self.out(y), last.sum(-1)


class Stepped(nn.Module):
    """A cell that is called once a step, from a state of zeros."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.inner, self.out = cell, nn.Linear(6, 8), nn.Linear(10, 5)

    def forward(self, x):
        state = None
        for step in F.relu(self.inner(x)).unbind(1):
            state = self.cell(step, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


@micro(sequence(6, 3), cut=["cell.weight_hh@1", "inner"])
class SteppedGru(Stepped):
    def __init__(self):
        super().__init__(nn.GRUCell(8, 10))


@micro(sequence(6, 3), cut=["cell.weight_hh@1", "inner"])
class SteppedLstm(Stepped):
    def __init__(self):
        super().__init__(nn.LSTMCell(8, 10))


@micro(sequence(6, 3), cut=["cell.weight_hh@1", "inner"])
class SteppedRnn(Stepped):
    def __init__(self):
        super().__init__(nn.RNNCell(8, 10, nonlinearity="relu", bias=False))


def _lengths(batch):
    return (torch.randint(0, 19, (batch, 9)),), {}


@micro(_lengths, cut=["fc"], shapes=lambda batch: ({0: batch, 1: torch.export.Dim("length", min=2, max=64)},))
class SymbolicLength(nn.Module):
    """Batch and length are both open; positions are computed from the length."""

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Embedding(19, WIDTH), nn.Embedding(64, WIDTH)
        self.fc, self.down, self.out = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, ids):
        x = self.embed(ids) + self.positions(torch.arange(ids.shape[1]))
        x = x + self.down(F.relu(self.fc(x)))
        return self.out(x.reshape(-1, WIDTH)).view(ids.shape[0], ids.shape[1], -1)
