"""Writes small networks as TorchScript and as torch.export archives, with what they compute.

check_script.py FOLDER
    For each network NAME: NAME.traced.pt and NAME.scripted.pt (those of them that torch can make),
    NAME.pt2, and NAME.safetensors with batch2.in0, batch2.out0, batch5.in0, ...; for the networks
    that must be refused only the TorchScript file.
"""
import sys
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from check_pt2 import write_safetensors

warnings.filterwarnings("ignore")


class Residual(nn.Module):
    """In-place activations, a residual, a concatenation, pooling and flatten."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                   nn.Dropout(0.2))
        self.branch = nn.Conv2d(8, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.block(x) + x
        x = torch.cat([x, self.branch(F.max_pool2d(x, 3, 1, 1))], 1)
        return self.fc(torch.flatten(self.pool(x), 1))


class Views(nn.Module):
    """Sizes taken from the input: view, reshape, arithmetic on sizes, chunk, channel shuffle."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.out = nn.Conv2d(8, 6, 1, groups=2)
        self.fc = nn.Linear(6 * 9, 4)

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.size()
        a, b = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).chunk(2, 1)
        x = torch.cat([b, a * 0.5], 1)
        y = F.relu(self.out(x)).view(x.size(0), -1)
        return self.fc(y).view(n * 2, -1).reshape(n, 4) - 1.5


class Depthwise(nn.Module):
    """Depthwise convolution, squeeze and excitation, hard activations, residual."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 3, 1)

    def forward(self, x):
        y = F.hardswish(self.norm(self.depthwise(self.expand(x))))
        s = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y * s)


class Tied(nn.Module):
    """Embedding and head share one weight; a buffer; integer input."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.linspace(-1, 1, 8))

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens)) + self.shift))


class Attention(nn.Module):
    """Class token, packed qkv, softmax attention, layer norm, gelu."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.norm1 = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.norm2 = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1)) * (c // 4) ** -0.5
        y = (a.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)
        x = x + self.proj(y)
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.fc(y[:, -1])


class Other(nn.Module):
    """Transposed, 1-d and same-padded convolutions, group norm, einsum, in-place slices."""

    def __init__(self):
        super().__init__()
        self.same = nn.Conv1d(4, 8, 3, padding="same")
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose1d(8, 6, 2, stride=2)
        self.weight = nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        x = F.leaky_relu(self.up(self.norm(self.same(x))))
        x[:, 0].add_(1)
        return torch.einsum("bct,cd->bdt", x, self.weight)


class Outputs(nn.Module):
    """Two inputs, several outputs, a module that is called twice, a tensor in the code."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x, scale):
        y = self.fc(torch.relu(self.fc(x))) * scale + torch.tensor([0.25, -1.0] * 4)
        return self.head(y), (y.sum(1), y.argmax(dim=1))


class Loops(nn.Module):
    """Control flow that is decided by constants: loops, lists, optional modules, training."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.last = nn.Linear(18, 2)

    def forward(self, x):
        parts = []
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if i >= 0:
                parts.append(x)
        scale = 1.0
        for k in range(3):
            scale = scale * 0.5
        if self.training:
            x = x.sum()
        if x.dim() == 2 and x.size(1) == 6:
            x = torch.cat(parts, dim=1)
        return self.last(x * scale)


class OnData(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        x = self.fc(x)
        if bool(x.sum() > 0):
            x = x * 2
        return x


class Counts(nn.Module):
    """Changes a buffer on every call."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * self.calls


class Fixed(nn.Module):
    """Only works at batch 4."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return self.fc(x).view(4, 2, 3).sum(2)


class StateCode(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.training = False

    @torch.jit.export
    def __getstate__(self):
        return self.training

    @torch.jit.export
    def __setstate__(self, state: bool):
        self.training = state

    def forward(self, x):
        return self.fc(x)


def images(size):
    return lambda batch: (torch.randn(batch, 3, size, size),)


GOOD = {"residual": (Residual, images(16)), "views": (Views, images(8)),
        "depthwise": (Depthwise, images(8)), "attention": (Attention, images(8)),
        "tied": (Tied, lambda batch: (torch.randint(0, 13, (batch, 7)),)),
        "recurrent": (Recurrent, lambda batch: (torch.randn(batch, 5, 6),)),
        "other": (Other, lambda batch: (torch.randn(batch, 4, 9),)),
        "outputs": (Outputs, lambda batch: (torch.randn(batch, 8), torch.randn(batch, 8))),
        "loops": (Loops, lambda batch: (torch.randn(batch, 6),))}


def settle(module):
    """Statistics that are not 0 and 1, so that a lost batch norm shows."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.5)
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def main(folder):
    torch.manual_seed(3)
    for name, (build, make) in GOOD.items():
        model = settle(build())
        inputs = {batch: make(batch) for batch in (2, 5)}
        torch.jit.save(torch.jit.trace(model, inputs[2], check_trace=False),
                       f"{folder}/{name}.traced.pt")
        torch.jit.save(torch.jit.script(model), f"{folder}/{name}.scripted.pt")
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(model, inputs[2],
                                      dynamic_shapes=tuple({0: batch} for _ in inputs[2]))
        torch.export.save(program, f"{folder}/{name}.pt2")
        expected = {}
        for size, args in inputs.items():
            expected.update({f"batch{size}.in{i}": value for i, value in enumerate(args)})
            with torch.no_grad():
                outputs = torch.utils._pytree.tree_leaves(model(*(a.clone() for a in args)))
            expected.update({f"batch{size}.out{i}": value for i, value in enumerate(outputs)})
        write_safetensors(f"{folder}/{name}.safetensors", expected)
    torch.jit.save(torch.jit.script(OnData().eval()), f"{folder}/on_data.pt")
    torch.jit.save(torch.jit.script(Counts().eval()), f"{folder}/counts.pt")
    torch.jit.save(torch.jit.script(StateCode().eval()), f"{folder}/state_code.pt")
    torch.jit.save(torch.jit.trace(Fixed().eval(), torch.randn(4, 6)), f"{folder}/fixed.pt")
    torch.jit.save(torch.jit.trace(Residual().train(), images(16)(2), check_trace=False),
                   f"{folder}/training.pt")
    torch.save(Fixed().state_dict(), f"{folder}/state_dict.pt")


if __name__ == "__main__":
    main(sys.argv[1])
    print("ok")
