"""Opens a delivered folder with PyTorch and compares it with logits that Espalier computed.

usage: check_delivery.py FOLDER LOGITS.safetensors    (tensors x1, y1, x5, y5)
"""
import json
import struct
import sys

import torch


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    kinds = {"F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(
            bytearray(data[start:end]), dtype=kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def main():
    folder, logits = sys.argv[1], read_safetensors(sys.argv[2])
    program = torch.export.load(f"{folder}/model.pt2")
    state = torch.load(f"{folder}/state_dict.pt", weights_only=True)
    weights = read_safetensors(f"{folder}/weights.safetensors")
    for name, tensor in program.state_dict.items():
        assert torch.equal(tensor, state[name]), f"{name}: model.pt2 and state_dict.pt differ"
        assert torch.equal(tensor, weights[name]), f"{name}: model.pt2 and weights differ"
    module = program.module()
    for batch in (1, 5):
        expected = logits[f"y{batch}"]
        with torch.no_grad():
            found = module(logits[f"x{batch}"])
        # Two convolution algorithms may differ in rounding; float32, some 20 layers.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        refilled = torch.func.functional_call(module, state, (logits["x5"],))
    torch.testing.assert_close(refilled, logits["y5"], rtol=1e-4, atol=1e-4)
    plan = json.load(open(f"{folder}/plan.json"))
    assert plan["format"] == "espalier-plan" and plan["version"] == 1
    for name, axes in plan["kept"].items():
        for axis, kept in axes.items():
            if isinstance(kept, list) and name in state:
                assert state[name].shape[int(axis)] == len(kept), (name, axis)


if __name__ == "__main__":
    main()
