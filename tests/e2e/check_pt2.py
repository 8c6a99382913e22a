"""Opens what Espalier wrote with plain PyTorch and compares it with what Espalier computed.

check_pt2.py state_dict STATE_DICT.pt EXPECTED.safetensors
check_pt2.py program MODEL.pt2 EXPECTED.safetensors
    EXPECTED holds batch2.in0, batch2.out0, batch5.in0, ... for the batch sizes to try.
check_pt2.py export MODEL.pt2 EXPECTED.safetensors
    The other way round: writes an archive of a network of torch's own and what it computes.
Exit status 0 and "ok" on success; otherwise an exception says what differs.
"""
import json
import struct
import sys

import torch

DTYPES = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
          "U8": torch.uint8, "BOOL": torch.bool}


def read_safetensors(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(data[begin:end]) or bytearray(8), dtype=torch.uint8)
        flat = flat[:end - begin].clone().view(DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        blob = bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class Foreign(torch.nn.Module):
    """Tied weights, a non-persistent buffer, a lifted constant, a recurrent layer, sizes computed
    from the batch, lists, in-place calls, a module called twice and nested outputs."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(13, 8)
        self.lstm = torch.nn.LSTM(8, 8, batch_first=True)
        self.block = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(inplace=True))
        self.head = torch.nn.Linear(8, 13, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.linspace(-1, 1, 8), persistent=False)

    def forward(self, tokens, scale):
        x, _ = self.lstm(self.embed(tokens))
        x = self.block(x) + self.shift + torch.tensor(0.25)
        x = x.reshape(x.shape[0] * x.shape[1], 8)
        x = self.block(x * 0.5).view(tokens.shape[0], -1, 8)
        first, second = x.chunk(2, dim=2)
        x = torch.cat([second, first], dim=2)
        x[:, 0] += 1
        logits = self.head(x.mean(dim=1) * scale)
        return {"logits": logits, "best": (logits.topk(3, dim=1).values, x.argmax(dim=2))}


def export(path, expected_path):
    torch.manual_seed(1)
    model = Foreign().eval()
    inputs = {batch: (torch.randint(0, 13, (batch, 5)), torch.randn(batch, 8)) for batch in (2, 5)}
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, inputs[2], dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, path, extra_files={"notes.txt": "carried"})
    expected = {}
    for size, args in inputs.items():
        expected.update({f"batch{size}.in{i}": value for i, value in enumerate(args)})
        outputs = outputs_of(model, args)
        expected.update({f"batch{size}.out{i}": value for i, value in enumerate(outputs)})
    write_safetensors(expected_path, expected)


def check_equal(what, got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape, \
        f"{what}: {got.dtype} {tuple(got.shape)} instead of {expected.dtype} {tuple(expected.shape)}"
    assert torch.equal(got, expected), f"{what}: values differ"


def check_close(what, got, expected):
    assert got.shape == expected.shape, f"{what}: {got.shape} instead of {expected.shape}"
    if not got.is_floating_point():
        return check_equal(what, got, expected)
    error = (got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    assert error <= 1e-5, f"{what}: relative error {error:g}"


def check_state_dict(path, expected):
    state = torch.load(path, weights_only=True)
    assert type(state) is dict, type(state)
    # Tied names stand once in EXPECTED: the others must share memory with one that is there.
    stored = {state[name].data_ptr() for name in expected}
    for name in state:
        assert name in expected or state[name].data_ptr() in stored, f"unexpected {name}"
    for name in expected:
        check_equal(name, state[name], expected[name])


def outputs_of(module, inputs):
    return torch.utils._pytree.tree_leaves(module(*inputs))


def check_program(path, expected):
    program = torch.export.load(path)
    batches = sorted({name.split(".")[0] for name in expected})
    module, tree = program.module(), torch.export.unflatten(program)
    for batch in batches:
        count = len([name for name in expected if name.startswith(batch + ".in")])
        inputs = [expected[f"{batch}.in{i}"] for i in range(count)]
        for kind, runs in (("module", module), ("unflatten", tree)):
            for i, output in enumerate(outputs_of(runs, inputs)):
                check_close(f"{kind} {batch}.out{i}", output, expected[f"{batch}.out{i}"])
    loss = sum(out.float().pow(2).mean() for out in outputs_of(module, inputs) if out.is_floating_point())
    loss.backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads), "gradients are not finite"
    # Exporting again works and stays dynamic in the batch, as far as the first export allowed.
    batch = torch.export.Dim("batch", min=1, max=_largest_size(program))
    shapes = tuple({0: batch} for _ in inputs)
    again = torch.export.export(module, tuple(inputs), dynamic_shapes=(shapes,)
                                if _takes_varargs(module) else shapes)
    first = [expected[f"{batches[0]}.in{i}"] for i in range(count)]
    for i, output in enumerate(outputs_of(again.module(), first)):
        check_close(f"re-exported out{i}", output, expected[f"{batches[0]}.out{i}"])


def _largest_size(program):
    bounds = [str(limits.upper) for limits in program.range_constraints.values()]
    return min((int(bound) for bound in bounds if bound.isdigit()), default=None)


def _takes_varargs(module):
    import inspect
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())


if __name__ == "__main__":
    mode, archive, reference = sys.argv[1:]
    if mode == "export":
        export(archive, reference)
    else:
        check = {"state_dict": check_state_dict, "program": check_program}[mode]
        check(archive, read_safetensors(reference))
    print("ok")
