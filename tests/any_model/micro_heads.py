"""How heads are packed, and attention that multiplies its factors in another order."""
import torch
import torch.nn.functional as F
from torch import nn

from micro_attention import HEADS, WIDTH, Block, heads_of, merge, rotary_tables
from micro_base import image, micro, sequence


@micro(sequence(6), cut=["qkv"])
class HeadsMergedWithBatch(Block):
    """BLOOM's form: [B * heads, T, d], scores added to a bias, qkv packed per head."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("bias", torch.randn(1, 1, 6))

    def attend(self, x):
        b, t, _ = x.shape
        q, k, v = (part.transpose(1, 2).reshape(b * HEADS, t, -1)
                   for part in self.qkv(x).view(b, t, HEADS, 3, -1).unbind(3))
        weights = torch.baddbmm(self.bias, q, k.transpose(-2, -1), beta=1.0, alpha=0.5).softmax(-1)
        return self.proj((weights @ v).view(b, HEADS, t, -1).transpose(1, 2).reshape(b, t, -1))


@micro(sequence(6), cut=["q", "k", "v"])
class PartialRotary(Block):
    """The first half of every head turns with a table that all heads share (GPT-NeoX, Phi)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * 8) for _ in range(3))
        self.proj = nn.Linear(HEADS * 8, WIDTH)
        angles = torch.cat((rotary_tables(6, 4), rotary_tables(6, 4)), dim=-1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x):
        x, kept = x[..., :4], x[..., 4:]
        turned = x * self.cos + torch.cat((-x[..., 2:], x[..., :2]), dim=-1) * self.sin
        return torch.cat((turned, kept), dim=-1)

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        return self.proj(merge(F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)))


@micro(sequence(6), cut=["qkv"])
class WiderValues(Block):
    """Packed per head, values twice as wide as keys (LeViT, EfficientFormer; GPT-NeoX packs so too)."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, HEADS * 16), nn.Linear(HEADS * 8, WIDTH)

    def attend(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, HEADS, 16).permute(0, 2, 1, 3).split([4, 4, 8], dim=3)
        return self.proj(merge((q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v))


@micro(sequence(6), cut=["q", "k"])
class NormalisedLinearAttention(Block):
    """A column of ones beside the values gives the divisor (EfficientViT)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def attend(self, x):
        q, k = (heads_of(F.relu(layer(x)), HEADS) for layer in (self.q, self.k))
        v = F.pad(heads_of(self.v(x), HEADS), (0, 1), mode="constant", value=1.0)
        out = q @ (k.transpose(-2, -1) @ v)
        return self.proj(merge(out[..., :-1] / (out[..., -1:] + 1e-2)))


@micro(sequence(6), cut=["q", "k"])
class LinearAttention(Block):
    """k^T v runs along the widths of two layers: that of the keys is cut, that of the values stays."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        return self.proj(merge(q @ (k.softmax(dim=2).transpose(-2, -1) @ v)))


@micro(sequence(6), cut=["q"])
class CrossCovarianceAttention(Block):
    """softmax over the keys' channels for each channel of the queries (XCiT, DaViT)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS).transpose(-2, -1) for layer in (self.q, self.k, self.v))
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
        return self.proj(merge((weights @ v).transpose(-2, -1)))


@micro(sequence(6), cut=["qkv", "q_bias"])
class JoinedBias(Block):
    """Queries and values have a bias, keys zeros in its place (BEiT, Swin v2, EVA)."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("k_bias", torch.zeros(WIDTH), persistent=False)

    def attend(self, x):
        b, t, _ = x.shape
        qkv = F.linear(x, self.qkv.weight, torch.cat((self.q_bias, self.k_bias, self.v_bias)))
        q, k, v = qkv.reshape(b, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(merge(F.scaled_dot_product_attention(q, k, v)))


@micro(sequence(6), cut=["q", "k", "v"])
class PrefixRotary(Block):
    """All tokens but the first turn, by a table that is stored whole (EVA)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        angles = rotary_tables(5, 4).repeat_interleave(2, dim=-1)
        self.register_buffer("table", torch.cat((angles.sin(), angles.cos()), dim=-1))

    def turn(self, x):
        sin, cos = self.table.chunk(2, dim=-1)
        first, x = x[:, :, :1], x[:, :, 1:]
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).reshape(x.shape)
        return torch.cat((first, x * cos + turned * sin), dim=2)

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        return self.proj(merge(F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)))


@micro(image(3), cut=["conv", "inner"])
class PatchesAsTokens(nn.Module):
    """MobileViT: batch, channels and rows of patches in one axis, whose size is computed."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.LayerNorm(16)
        self.inner, self.outer, self.fc = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.conv(x))
        b = x.shape[0]
        x = x.reshape(b * 16 * 4, 2, 4, 2).transpose(1, 2).reshape(b, 16, 16, 4).transpose(1, 3)
        x = x.reshape(b * 4, 16, -1)
        x = x + self.outer(F.gelu(self.inner(self.norm(x))))
        x = x.reshape(b, 4, 16, 16).transpose(1, 3).reshape(b * 16 * 4, 4, 2, 2).transpose(1, 2)
        return self.fc(x.reshape(b, 16, 8, 8).mean((2, 3)))


@micro(lambda batch: ((torch.randn(batch, 6, 6), torch.randn(batch, 5, 6)), {}),
       cut=["attention.in_proj_weight"])
class CrossAttentionByHand(nn.Module):
    """Keys and values of one layer, whose heads are merged with the batch (need_weights)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x, y):
        x, y = self.a(x), self.b(y)
        return self.out(x + self.attention(x, y, y)[0])


@micro(sequence(6), cut=["q", "k", "v"])
class ScalePerHead(Block):
    """Norms of queries and keys with a scale for each head and dim, and memories of every head."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.q_scale, self.k_scale = (nn.Parameter(torch.rand(HEADS, 1, WIDTH // HEADS) + 0.5) for _ in range(2))
        self.keys, self.values = (nn.Parameter(torch.randn(HEADS, 3, WIDTH // HEADS)) for _ in range(2))

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        k, v = (torch.cat((memory.expand(x.shape[0], -1, -1, -1), part), dim=2)
                for memory, part in zip((self.keys, self.values), (k, v)))
        q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        return self.proj(merge((q @ k.transpose(-2, -1)).softmax(-1) @ v))


@micro(sequence(6), cut=["q", "k", "v"])
class OneKeyHead(Block):
    """All heads share one key and one value, by einsum."""

    def __init__(self):
        super().__init__()
        self.q, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = (nn.Linear(WIDTH, WIDTH // HEADS) for _ in range(2))

    def attend(self, x):
        weights = torch.einsum("bhid,bjd->bhij", heads_of(self.q(x), HEADS), self.k(x)).softmax(-1)
        return self.proj(merge(torch.einsum("bhij,bjd->bhid", weights, self.v(x))))


@micro(sequence(6), cut=["q", "k", "v"])
class ChannelAttention(Block):
    """XCiT, Restormer: the dims of a head attend to each other, so that heads go as a whole."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1) + 0.5)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS).transpose(-2, -1) for layer in (self.q, self.k, self.v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (k @ q.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.proj(merge((weights @ v).transpose(-2, -1)))


@micro(sequence(6), cut=["q", "k", "v"])
class ComplexRotary(Block):
    """Llama's own form: pairs of dims are complex numbers, turned by a stored complex table."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.proj = nn.Linear(WIDTH, WIDTH)
        angle = torch.outer(torch.arange(6).float(), torch.rand(WIDTH // HEADS // 2))
        self.register_buffer("turn", torch.polar(torch.ones_like(angle), angle))

    def rotate(self, x):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turn).flatten(3).type_as(x)

    def attend(self, x):
        q, k, v = (heads_of(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        return self.proj(merge(F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)))
