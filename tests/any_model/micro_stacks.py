"""Stacks of weights: a matrix for every expert, or for every head."""
import torch
from micro_attention import HEADS, WIDTH, Block
from micro_base import micro, sequence
from torch import nn
from torch.nn import functional as F

EXPERTS, INNER = 3, 10


class Experts(nn.Module):
    """All experts, weighted by a gate."""

    def __init__(self):
        super().__init__()
        self.inp, self.gate, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, EXPERTS), nn.Linear(WIDTH, 4)
        self.up, self.down = (nn.Parameter(torch.randn(EXPERTS, *sizes) * 0.3)
                              for sizes in ((WIDTH, INNER), (INNER, WIDTH)))
        self.up_bias = nn.Parameter(torch.randn(EXPERTS, INNER))

    def forward(self, x):
        x = self.inp(x)
        return self.out(x + self.mix(x, self.gate(x).softmax(-1)))


CUT = ["inp", "up@1", "up@2", "down@1", "down@2", "out@1", "gate@1"]


@micro(sequence(6), cut=CUT + ["up_bias@1"])
class ExpertsByEinsum(Experts):
    def mix(self, x, weights):
        y = F.gelu(torch.einsum("bth,ehi->beti", x, self.up) + self.up_bias[None, :, None])
        return torch.einsum("beth,bte->bth", torch.einsum("beti,eih->beth", y, self.down), weights)


@micro(sequence(6), cut=CUT + ["up_bias@1"])
class ExpertsSummedByEinsum(Experts):
    """The weights go to the inner units, and one product sums over experts, too."""

    def mix(self, x, weights):
        y = F.gelu(torch.einsum("bth,ehi->btei", x, self.up) + self.up_bias) * weights[..., None]
        return torch.einsum("btei,eih->bth", y, self.down)


@micro(sequence(6), cut=CUT)
class ExpertsByMatmul(Experts):
    """The weights are stored the other way round, as nn.Linear does."""

    def __init__(self):
        super().__init__()
        self.up, self.down = (nn.Parameter(weight.detach().transpose(1, 2).contiguous())
                              for weight in (self.up, self.down))
        self.up_bias = None

    def mix(self, x, weights):
        y = F.silu(x.unsqueeze(1) @ self.up.transpose(1, 2)) @ self.down.mT
        return (y * weights.transpose(1, 2).unsqueeze(-1)).sum(1)


@micro(sequence(6), cut=CUT + ["up_bias@1"])
class ExpertsByBaddbmm(Experts):
    def mix(self, x, weights):
        batch, tokens, width = x.shape
        flat = x.reshape(1, batch * tokens, width).expand(EXPERTS, -1, -1)
        y = torch.bmm(F.relu(torch.baddbmm(self.up_bias.unsqueeze(1), flat, self.up)), self.down)
        y = (y * weights.reshape(batch * tokens, EXPERTS).t().unsqueeze(-1)).sum(0)
        return y.reshape(batch, tokens, width)


@micro(sequence(6), cut=["inp", "weight@1", "weight@2", "bias@1", "out@1"])
class BlockDiagonalGates(nn.Module):
    """A small matrix for every head, as in RecurrentGemma's gates."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 4)
        self.weight = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS, WIDTH // HEADS))
        self.bias = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS))

    def forward(self, x):
        x = self.inp(x)
        batch, tokens, width = x.shape
        heads = x.reshape(batch * tokens, HEADS, width // HEADS).permute(1, 0, 2)
        gates = torch.baddbmm(self.bias[:, None, :], heads, self.weight)
        return self.out(x * gates.permute(1, 0, 2).reshape(batch, tokens, width).sigmoid())


@micro(sequence(6), cut=["q@2", "k@2", "v@2", "proj@1"])
class AttentionOfStacks(Block):
    """Projections with a matrix for every head; the last sums over heads and their dims."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(HEADS, WIDTH, 6)) for _ in range(3))
        self.proj = nn.Parameter(torch.randn(HEADS, 6, WIDTH))

    def attend(self, x):
        q, k, v = (torch.einsum("btw,hwd->bhtd", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1)
        return torch.einsum("bhtd,hdw->btw", torch.einsum("bhts,bhsd->bhtd", weights, v), self.proj)


@micro(sequence(6), cut=CUT + ["up_bias@1"])
class PickedExperts(Experts):
    """A router's choice for every token: its weights are picked at run time, as Mixtral's are."""

    def mix(self, x, weights):
        batch, tokens, width = x.shape
        best, chosen = weights.reshape(-1, EXPERTS).topk(2, dim=-1)
        data, chosen = x.reshape(-1, width).repeat_interleave(2, dim=0), chosen.reshape(-1)
        y = F.silu(torch.bmm(data.unsqueeze(1), self.up[chosen]).squeeze(1) + self.up_bias[chosen])
        y = torch.bmm(self.down[chosen].transpose(1, 2), y.unsqueeze(-1)).squeeze(-1)
        return (y * best.reshape(-1, 1)).reshape(-1, 2, width).sum(1).reshape(batch, tokens, width)


@micro(sequence(6), cut=["inp", "gate", "gate@1", "out@1"])
class WeightInAnotherType(nn.Module):
    """A router that computes in float64: its weight is cast before it is used."""

    def __init__(self):
        super().__init__()
        self.inp, self.gate, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.inp(x).relu()
        return self.out(F.linear(x.double(), self.gate.weight.double()).float() + self.gate.bias)


@micro(sequence(6), cut=CUT + ["up_bias@1"])
class PickedByEinsum(Experts):
    """The same with an axis of its own for the choices; the last product sums over them."""

    def mix(self, x, weights):
        best, chosen = weights.topk(2, dim=-1)
        y = F.silu(torch.einsum("bth,btkhi->btki", x, self.up[chosen]) + self.up_bias[chosen])
        return torch.einsum("btki,btkih->bth", y * best.unsqueeze(-1), self.down[chosen])
