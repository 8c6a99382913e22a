"""Networks that cannot be taken: what the refusal has to say. Name -> (module, inputs, words)."""
import torch
from torch import nn


class Inner(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(6, 6), function

    def forward(self, x):
        return self.fc(self.function(x))


class Outer(nn.Module):
    """The offending call stands in `body.inner`, which the refusal has to name."""

    def __init__(self, function):
        super().__init__()
        self.body = nn.ModuleDict({"inner": Inner(function)})

    def forward(self, x):
        return self.body["inner"](x)


@torch.library.custom_op("zoo::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


def condition(x):
    return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


def rows_above_zero(x):
    return x[x[:, 0] > 0]


def number_from_data(x):
    count = x.argmax().item()
    torch._check(count >= 0)
    torch._check(count < 5)
    return x.narrow(1, 0, 6) * count


REFUSED = {
    "refused_condition": (condition, ("higher_order.cond", "body.inner", "sub-graphs")),
    "refused_custom": (twice, ("zoo.twice", "body.inner", "custom operators")),
    "refused_shape": (rows_above_zero, ("depends on data", "body.inner", "index.Tensor")),
    "refused_number": (number_from_data, ("depends on data", "body.inner", "aten.item")),
}


def refused_module(name):
    return Outer(REFUSED[name][0]).eval()
