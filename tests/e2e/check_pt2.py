"""Opens what Espalier wrote with plain PyTorch and compares it with what Espalier computed.

check_pt2.py state_dict STATE_DICT.pt EXPECTED.safetensors
check_pt2.py program MODEL.pt2 EXPECTED.safetensors
    EXPECTED holds batch2.in0, batch2.out0, batch5.in0, ... for the batch sizes to try.
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


def check_equal(what, got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape, \
        f"{what}: {got.dtype} {tuple(got.shape)} instead of {expected.dtype} {tuple(expected.shape)}"
    assert torch.equal(got, expected), f"{what}: values differ"


def check_close(what, got, expected):
    assert got.shape == expected.shape, f"{what}: {got.shape} instead of {expected.shape}"
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
    result = module(*inputs)
    return list(result) if isinstance(result, (tuple, list)) else [result]


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
    # Exporting again works and stays dynamic in the batch.
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    again = torch.export.export(module, tuple(inputs), dynamic_shapes=(shapes,)
                                if _takes_varargs(module) else shapes)
    first = [expected[f"{batches[0]}.in{i}"] for i in range(count)]
    for i, output in enumerate(outputs_of(again.module(), first)):
        check_close(f"re-exported out{i}", output, expected[f"{batches[0]}.out{i}"])


def _takes_varargs(module):
    import inspect
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())


if __name__ == "__main__":
    mode, written, reference = sys.argv[1:]
    {"state_dict": check_state_dict, "program": check_program}[mode](written, read_safetensors(reference))
    print("ok")
