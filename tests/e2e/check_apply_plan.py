#!/usr/bin/env python3
"""scripts/apply_plan.py on eager models: what it makes equals what Espalier cut, and still trains.

usage: check_apply_plan.py ESPALIER FOLDER

Every model below is exported, pruned by the executable to half its MACs into FOLDER, and cut in
Python by the plan found there. In eval mode both must give the same numbers, in training mode a
step must work. Prints a line per case; exits 1 when one fails.
"""

import copy
import json
import pathlib
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import nn

sys.dont_write_bytecode = True
SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from apply_plan import apply_plan  # noqa: E402


def block(inputs, outputs, **options):
    return [nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU()]


def head(width):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]


def plain():
    return nn.Sequential(*block(3, 16), *block(16, 24), *head(24))


def depthwise():
    last = [nn.Conv2d(16, 24, 1), nn.PReLU(24), *head(24)]
    return nn.Sequential(*block(3, 16), *block(16, 16, groups=16), *last)


def grouped():
    return nn.Sequential(*block(3, 16), *block(16, 24, groups=4), *block(24, 12), *head(12))


def flattened():
    last = [nn.Flatten(), nn.Linear(8 * 4 * 4, 20), nn.ReLU(), nn.Linear(20, 5)]
    return nn.Sequential(*block(3, 8), nn.MaxPool2d(2), *last)


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Sequential(*block(3, 8)), nn.Sequential(*block(3, 12))
        self.last = nn.Sequential(*block(20, 16), *head(16))

    def forward(self, x):
        return self.last(torch.cat([self.left(x), self.right(x)], 1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Sequential(*block(3, 16)), nn.Sequential(*head(16))
        branch = [nn.Sequential(*block(16, 24), *block(24, 16)) for _ in range(2)]
        self.branches = nn.ModuleList(branch)

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.last(x)


class Tied(nn.Module):  # one convolution under two names
    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Sequential(*block(3, 16)), nn.Conv2d(16, 16, 3, padding=1)
        self.second, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Sequential(*head(16))
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.stem(x)
        return self.last(F.relu(self.second(F.relu(self.first(x)) + x)))


class Normed(nn.Module):  # a residual trunk under layer norms
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(64, 24), nn.LayerNorm(24)
        self.up, self.down, self.last = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.embed(x.flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.last(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.LSTM(64, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x):
        return self.last(self.cells(x.flatten(2))[0][:, -1])


class Attending(nn.Module):  # torch's own attention, alone and in its encoder layer
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(64, 24), nn.MultiheadAttention(24, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True)
        self.last = nn.Linear(24, 5)

    def forward(self, x):
        x = self.embed(x.flatten(2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.last(self.encoder(x).mean(1))


class Deep(nn.Module):  # branches that are one module, several, and an attention
    def __init__(self):
        super().__init__()
        self.embed, self.norms = nn.Linear(64, 24), nn.ModuleList(nn.LayerNorm(24) for _ in range(3))
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.up, self.down, self.last = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.embed(x.flatten(2))
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norms[1](x))
        x = x + self.down(F.gelu(self.up(self.norms[2](x))))
        return self.last(x.mean(1))


class Reshaped(nn.Module):  # what torch.export records as a number comes from the shape
    def __init__(self, literal):
        super().__init__()
        self.literal = literal
        self.first, self.last = nn.Sequential(*block(3, 8)), nn.Linear(8 * 64, 5)

    def forward(self, x):
        x = self.first(x)
        return self.last(x.view(-1, 512 if self.literal else x.shape[1] * 64))


MODELS = {
    "plain": plain,
    "depthwise": depthwise,
    "grouped": grouped,
    "flattened": flattened,
    "concatenated": Concatenated,
    "residual": Residual,
    "tied": Tied,
    "normed": Normed,
    "recurrent": Recurrent,
    "attending": Attending,
}


def spread_norms(model):
    """Statistics that no two channels share, so that a wrong index shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def make(maker, seed):
    torch.manual_seed(seed)
    return spread_norms(maker()).eval()


def run(*line):
    line = [str(word) for word in line]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(line)}: exit code {done.returncode}\n{done.stderr}")


def export(model, file):
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.randn(3, 3, 8, 8)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, file)


def prune(espalier, model, folder, *options):
    folder.mkdir()
    export(model, folder / "model.pt2")
    run(espalier, "prune", folder / "model.pt2", "--macs", "0.5", "--out", folder / "cut", *options)
    return json.loads((folder / "cut/plan.json").read_text())


def expect_equal(model, archive):
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = torch.export.load(archive).module()(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def expect_trains(model):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(torch.randn(6, 3, 8, 8)), torch.arange(6) % 5).backward()
    optimizer.step()
    for name, tensor in model.state_dict().items():
        moved = not torch.equal(tensor, before[name])
        # The bias before a batch norm has no gradient.
        assert moved or name.endswith("bias"), f"a training step leaves '{name}' as it was"


def expect_attributes(model):
    """Layers made anew from the attributes have the shapes of the cut ones."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            widths = layer.in_channels, layer.out_channels
            made = nn.Conv2d(*widths, layer.kernel_size, groups=layer.groups)
        elif isinstance(layer, nn.Linear):
            made = nn.Linear(layer.in_features, layer.out_features)
        elif isinstance(layer, nn.BatchNorm2d):
            made = nn.BatchNorm2d(layer.num_features)
        else:
            continue
        assert made.weight.shape == layer.weight.shape, f"{name}: {layer}"


def check_model(name, espalier, folder):
    uncut = make(MODELS[name], 1)
    plan = prune(espalier, uncut, folder)
    model = apply_plan(copy.deepcopy(uncut), plan)
    count = sum(p.numel() for p in model.parameters())
    assert count < 0.8 * sum(p.numel() for p in uncut.parameters()), "hardly anything was cut"
    expect_equal(model, folder / "cut/model.pt2")
    expect_attributes(model)
    # The same plan on other weights: once by the executable, once in Python.
    other = make(MODELS[name], 2)
    export(other, folder / "other.pt2")
    run(espalier, "apply", folder / "cut", folder / "other.pt2", "--out", folder / "other")
    other = apply_plan(other, plan)
    expect_equal(other, folder / "other/model.pt2")
    # Weights that were trained after the cut come back into the eager model.
    state = torch.load(folder / "cut/state_dict.pt", weights_only=True)
    other.load_state_dict(state)
    expect_equal(other, folder / "cut/model.pt2")
    expect_trains(model)


def expect_refused(model, plan, *texts):
    before = copy.deepcopy(model.state_dict())
    try:
        apply_plan(model, plan)
    except ValueError as error:
        for text in texts:
            assert text in str(error), f"'{text}' is not in: {error}"
    else:
        raise AssertionError("was not refused")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "a refused plan has changed the model"


def check_reshaped(espalier, folder):
    model = make(lambda: Reshaped(False), 3)
    plan = prune(espalier, model, folder)
    edit = plan["edits"][0]
    expect_refused(model, plan, edit["node"], edit["op"], "512")
    expect_refused(make(plain, 3), plan, "'last.weight'", "'first.0.weight'")
    follower = apply_plan(copy.deepcopy(model), plan, follows=[edit["node"]])
    expect_equal(follower, folder / "cut/model.pt2")
    literal = apply_plan(make(lambda: Reshaped(True), 3), plan, follows=["*"])
    try:
        literal(torch.randn(2, 3, 8, 8))
    except RuntimeError:
        pass
    else:
        raise AssertionError("a number in the code followed a plan")


def check_deep(espalier, folder):
    """Residual branches that go, among them an attention and one of several modules."""
    uncut = make(Deep, 5)
    plan = prune(espalier, uncut, folder, "--depth")
    branches = [group for group in plan["groups"] if ".branch" in group["name"]]
    assert [group["kept"] for group in branches] == [[0]] * 3, "a budget that widths can meet takes no branch"
    branches[0]["kept"] = branches[2]["kept"] = []
    (folder / "less.json").write_text(json.dumps(plan))
    run(espalier, "apply", folder / "less.json", folder / "model.pt2", "--out", folder / "less")
    plan = json.loads((folder / "less/plan.json").read_text())
    assert [branch["module"] for branch in plan["branches"]] == ["attention", "down"], plan["branches"]
    model = apply_plan(copy.deepcopy(uncut), plan)
    expect_equal(model, folder / "less/model.pt2")
    state = torch.load(folder / "less/state_dict.pt", weights_only=True)
    assert state.keys() == model.state_dict().keys(), state.keys() ^ model.state_dict().keys()
    expect_trains(model)
    plan["branches"][0]["module"] = ""
    expect_refused(uncut, plan, plan["branches"][0]["node"])


def check_script(espalier, folder):
    prune(espalier, make(plain, 4), folder)
    (folder / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
        "from check_apply_plan import make, plain\n\n\ndef model():\n    return make(plain, 4)\n"
    )
    script = str(SCRIPTS / "apply_plan.py")
    line = [sys.executable, "-B", script, "cut/plan.json", "mine:model", "cut.pt"]
    subprocess.run(line, cwd=folder, check=True)
    expect_equal(torch.load(folder / "cut.pt", weights_only=False), folder / "cut/model.pt2")


def main():
    espalier, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    cases = {name: lambda e, f, name=name: check_model(name, e, f) for name in MODELS}
    cases |= {"reshaped": check_reshaped, "deep": check_deep, "script": check_script}
    failed = 0
    for name, check in cases.items():
        try:
            check(espalier, folder / name)
            print(f"{name}: equal")
        except Exception as error:  # noqa: BLE001: the next case is still worth running
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
