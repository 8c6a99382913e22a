"""Any exported network in, a provably equal smaller one out.

any_model_test.py CUT_FOLDER [ESPALIER [NETWORK...]]

Exports every micro network with torch.export, has CUT_FOLDER read, run, rewrite, cut and certify them
all, and holds the results against eager PyTorch:
  read     our executor computes what the eager module computes
  rewrite  read and written unchanged, the archive says the same, entry by entry
  cut      the certificate passes; torch.export.load runs the cut archive on two batch sizes with our
           numbers; gradients are finite; unflatten works; the layers the network lists got smaller
With ESPALIER, the command line does the same for a few of them. Prints a table; exit status 1 when
anything fails, 77 when torch is missing.
"""
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile

try:
    import torch
except ImportError:
    print("this python has no torch")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]
from check_pt2 import read_safetensors, write_safetensors  # noqa: E402
from micro_networks import NETWORKS  # noqa: E402
from micro_refused import REFUSED, refused_module  # noqa: E402

warnings.filterwarnings("ignore")
leaves = torch.utils._pytree.tree_leaves
# Relative to the largest output: the executor calls the same kernels, the cut ones sum in other order.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
# Rewritten in the layouts of older versions: one pickle for each weight, one for all.
PICKLED, STATE_DICT = "several_inputs", "tied_embedding"
COMMAND_LINE = ("plain_convs", "nested_inputs_and_outputs", "tied_embedding")


def tensors_in(value):
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def copied(value):
    copy = lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf  # noqa: E731
    return torch.utils._pytree.tree_map(copy, value)


def inputs_of(network, batch):
    torch.manual_seed(batch)
    return network.inputs(batch)


def export(network, folder):
    """Writes NAME.pt2 and NAME.in.safetensors; returns the eager outputs by batch."""
    module = network.module()
    args, kwargs = inputs_of(network, 2)
    program = torch.export.export(module, copied(args), copied(kwargs),
                                  dynamic_shapes=network.dynamic_shapes(args, kwargs))
    torch.export.save(program, os.path.join(folder, network.name + ".pt2"),
                      extra_files={"notes.txt": "carried through"})
    inputs, outputs = {}, {}
    for batch in (2, 3) if network.dynamic else (2,):
        args, kwargs = inputs_of(network, batch)
        for i, tensor in enumerate(tensors_in((args, kwargs))):
            inputs[f"b{batch}.in{i}"] = tensor
        with torch.no_grad():
            outputs[batch] = tensors_in(module(*copied(args), **copied(kwargs)))
    write_safetensors(os.path.join(folder, network.name + ".in.safetensors"), inputs)
    return outputs


def export_refused(folder):
    for name in REFUSED:
        program = torch.export.export(refused_module(name), (torch.randn(5, 6),), strict=False)
        torch.export.save(program, os.path.join(folder, name + ".pt2"))
        write_safetensors(os.path.join(folder, name + ".in.safetensors"), {})


def save(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rewrite_as_older(folder):
    """Archives as older versions wrote them: file name -> network."""
    names = {PICKLED + "_pickled": PICKLED, STATE_DICT + "_state_dict": STATE_DICT}
    for name, source in names.items():
        at = lambda ending, name=source: os.path.join(folder, name + ending)  # noqa: E731
        with zipfile.ZipFile(at(".pt2")) as archive:
            entries = {entry.split("/", 1)[1]: archive.read(entry) for entry in archive.namelist()}
        config_entry = "data/weights/model_weights_config.json"
        config, state = json.loads(entries[config_entry]), torch.export.load(at(".pt2")).state_dict
        for weight, item in config["config"].items():
            entries["data/weights/" + item["path_name"]] = save(state[weight])
            item["use_pickle"] = True
        entries[config_entry] = json.dumps(config).encode()
        if source == STATE_DICT:
            entries = {entry: data for entry, data in entries.items() if "data/weights" not in entry}
            entries["data/weights/model.pt"] = save(dict(state))
        with zipfile.ZipFile(at(".pt2", name), "w") as archive:
            for entry, data in entries.items():
                archive.writestr(name + "/" + entry, data)
        shutil.copy(at(".in.safetensors"), at(".in.safetensors", name))
    return names


def error_between(got, expected):
    """Largest difference relative to the largest value; infinite for other shapes or dtypes."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    if got.numel() == 0 or torch.equal(got, expected):
        return 0.0
    if not got.is_floating_point():
        return float("inf")
    scale = expected.double().abs().max().clamp_min(1e-12)
    return float((got.double() - expected.double()).abs().max() / scale)


def archive_json(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name.split("/", 1)[1]: name for name in archive.namelist()}
        found = {entry: json.loads(archive.read(name)) for entry, name in entries.items()
                 if entry.endswith(".json")}
        found.update({entry: archive.read(name) for entry, name in entries.items()
                      if entry.startswith(("extra/", "data/")) and not entry.endswith(".json")})
    return found


def first_difference(a, b, path=""):
    if type(a) is not type(b):
        return f"{path}: {str(a)[:80]} against {str(b)[:80]}"
    if isinstance(a, dict):
        for key in sorted(set(a) | set(b)):
            if key not in a or key not in b:
                return f"{path}/{key} is only on one side"
            if difference := first_difference(a[key], b[key], f"{path}/{key}"):
                return difference
        return ""
    if isinstance(a, list):
        if len(a) != len(b):
            return f"{path}: {len(a)} against {len(b)} entries"
        return next((d for i in range(len(a)) if (d := first_difference(a[i], b[i], f"{path}/{i}"))), "")
    return "" if a == b else f"{path}: {str(a)[:80]} against {str(b)[:80]}"


class Checker:
    def __init__(self, network, folder, expected, line, file=None):
        self.network, self.line, self.problems = network, line, []
        self.name = file or network.name
        self.path = lambda ending: os.path.join(folder, self.name + ending)
        self.expected, self.error = expected, 0.0
        self.outputs = read_safetensors(self.path(".out.safetensors"))

    def fail(self, text):
        self.problems.append(text)

    def compare(self, what, got, expected):
        for i, (a, b) in enumerate(zip(got, expected)):
            error = error_between(a, b)
            if not error <= TOLERANCE.get(b.dtype, 0.0):
                self.fail(f"{what}, output {i}: relative error {error:.2g} ({a.dtype} {tuple(a.shape)})")
        if len(got) != len(expected):
            self.fail(f"{what}: {len(got)} outputs instead of {len(expected)}")

    def ours(self, kind, batch):
        found = [name for name in self.outputs if name.startswith(f"{kind}.b{batch}.")]
        return [self.outputs[f"{kind}.b{batch}.out{i}"] for i in range(len(found))]

    def run(self):
        for batch, expected in self.expected.items():
            self.compare(f"our executor at batch {batch}", self.ours("full", batch), expected)
        if os.path.exists(self.path(".again.pt2")) and self.name == self.network.name:
            if self.network.keeps_json:
                before, after = archive_json(self.path(".pt2")), archive_json(self.path(".again.pt2"))
                if difference := first_difference(before, after):
                    self.fail(f"rewritten unchanged: {difference}")
            else:
                module = torch.export.load(self.path(".again.pt2")).module()
                for batch, expected in self.expected.items():
                    args, kwargs = inputs_of(self.network, batch)
                    with torch.no_grad():
                        self.compare("rewritten unchanged", tensors_in(module(*args, **kwargs)), expected)
        if "error" in self.line:
            text = "{message} ({hint})".format(**self.line["error"])
            self.fail(f"{self.line['stage']}: {text}")
        elif self.line["stage"] == "done":
            try:
                self.check_cut()
                if "depth" in self.line:
                    self.check_depth()
            except Exception as error:
                self.fail(f"the cut archive in torch: {type(error).__name__}: {str(error).strip()[:300]}")
        self.check_layers()
        return self

    def check_depth(self):
        """Residual branches are left out: the same, and what they stored is gone."""
        depth = self.line["depth"]
        self.check_cut("depth", depth["certificate"])
        if depth["cost"] != depth["recount"]:
            self.fail(f"cost without branches: {depth['cost']}, the archive has {depth['recount']}")
        left = set(torch.export.load(self.path(".depth.pt2")).state_dict) & set(depth["removed"])
        if left or not depth["removed"]:
            self.fail(f"of the branches that went, the archive still has {left}")

    def check_cut(self, cut="cut", certificate=None):
        certificate = certificate or self.line["certificate"]
        if not certificate["passed"]:
            self.fail(cut + " certificate: {failure} (error {max_rel_error:.2g}, double {max_rel_error_f64:.2g}, "
                      "control {control:.2g}, invariant {invariance_exact})".format(**certificate))
        program = torch.export.load(self.path(f".{cut}.pt2"))
        module, tree = program.module(), torch.export.unflatten(program)
        for batch in self.expected:
            for kind, runs in (("module", module), ("unflatten", tree)):
                args, kwargs = inputs_of(self.network, batch)
                with torch.no_grad():
                    got = tensors_in(runs(*args, **kwargs))
                self.compare(f"torch runs the {cut} {kind} at batch {batch}", got, self.ours(cut, batch))
        if self.network.gradients:
            args, kwargs = inputs_of(self.network, batch)
            loss = sum(t.double().pow(2).mean() for t in tensors_in(module(*args, **kwargs))
                       if t.is_floating_point())
            loss.backward()
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            if not grads or not all(torch.isfinite(grad).all() for grad in grads):
                self.fail("gradients of the cut network are not finite")

    def check_layers(self):
        for layer in self.network.cut:
            name, _, axis = layer.partition("@")
            name = name if name in self.line.get("sizes", {}) else name + ".weight"
            before, after = self.line.get("sizes", {}).get(name, ([0] * 9, [0] * 9))
            smaller = after[int(axis or 0)] < before[int(axis or 0)]
            if not smaller:
                pins = self.line.get("pins", {})
                reason = pins.get(f"{name}@{axis or 0}", "no reason is given")
                self.fail(f"{layer} was not cut: {reason}")


def refusal_problem(name, line):
    """The refusal must be of kind "model" (2) and say what stands where."""
    error = line.get("error")
    if not error:
        return f"{name}: was not refused"
    text = error["message"] + " " + error["hint"]
    missing = [word for word in REFUSED[name][1] if word not in text]
    return f"{name}: the refusal does not say {missing}: {text}" if missing or error["kind"] != 2 else ""


def run_command_line(binary, name, folder):
    """The same through the program a user starts. Returns a problem or ""."""
    path, out = os.path.join(folder, name + ".pt2"), os.path.join(folder, name)
    for words in (["inspect", path, "--json"], ["prune", path, "--macs", "0.6", "--out", out, "--json"],
                  ["verify", out, "--json"]):
        done = subprocess.run([binary, *words], capture_output=True, text=True)
        if done.returncode != 0:
            return f"espalier {words[0]}: {done.stderr.strip()[-500:]}"
        json.loads(done.stdout.strip().splitlines()[-1])
    torch.export.load(os.path.join(out, "model.pt2"))
    return ""


def table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def main(cutter, binary=None, *chosen):
    torch.set_num_threads(1)
    networks = [network for network in NETWORKS if not chosen or network.name in chosen]
    begin = time.time()
    with tempfile.TemporaryDirectory(prefix="any_model_") as folder:
        expected = {network.name: export(network, folder) for network in networks}
        older = rewrite_as_older(folder) if {PICKLED, STATE_DICT} <= set(expected) else {}
        export_refused(folder)
        exported = time.time()
        done = subprocess.run([cutter, folder], stdout=subprocess.PIPE, text=True)
        lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
        cut = time.time()
        if done.returncode != 0:
            missing = [network.name for network in networks if network.name not in lines]
            print(f"FAILED: {cutter} ended with status {done.returncode} at {missing[:1]}")
            return 1
        checks = [Checker(n, folder, expected[n.name], lines[n.name]).run() for n in networks]
        for name, source in older.items():
            network = next(n for n in networks if n.name == source)
            checks.append(Checker(network, folder, expected[source], lines[name], name).run())
        problems = [text for name in REFUSED if (text := refusal_problem(name, lines[name]))]
        if binary:
            for check in checks:
                if check.name in COMMAND_LINE:
                    if problem := run_command_line(binary, check.name, folder):
                        check.fail(problem)
    rows = [("network", "groups", "units", "pinned", "MACs", "", "certificate", "float64", "")]
    for check in checks:
        line, certificate = check.line, check.line.get("certificate", {})
        macs = line.get("macs", [0, 0])
        rows.append((check.name, line.get("groups", ""), line.get("units", ""),
                     len(line.get("pins", {})), int(macs[0]), int(macs[1]),
                     f"{certificate.get('max_rel_error', float('nan')):.1e}",
                     f"{certificate.get('max_rel_error_f64', float('nan')):.1e}",
                     "FAILED" if check.problems else line["stage"] if line["stage"] != "done" else ""))
    table(rows)
    failed = [check for check in checks if check.problems]
    for text in problems:
        print(f"FAILED {text}")
    for check in checks:
        for text in check.problems:
            print(f"FAILED {check.name}: {text}")
    print(f"{len(checks) - len(failed)} of {len(checks)} networks pass; export {exported - begin:.0f} s, "
          f"cut {cut - exported:.0f} s, PyTorch's part {time.time() - cut:.0f} s")
    return 1 if failed or problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
