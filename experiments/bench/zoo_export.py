"""Real architectures in, smaller ones out: the model zoo of transformers, diffusers and torchvision.

zoo_export.py export [FOLDER] [NAME...]     tiny random-weight networks -> FOLDER/NAME.pt2, with inputs
                                            and what eager PyTorch computes beside it
zoo_export.py table  [FOLDER] [NAME...]     reads, cuts to half the MACs, certifies and checks them all
    --cutter build/tests/cut_folder         --shared ../shared/models  (15 torchvision archives, xz)

FOLDER is build/zoo unless given. Needs `pip install transformers diffusers`; run by hand.
"""
import argparse
import json
import lzma
import os
import shutil
import subprocess
import sys
import warnings

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "e2e"))
from check_pt2 import read_safetensors, write_safetensors  # noqa: E402

warnings.filterwarnings("ignore")
leaves = torch.utils._pytree.tree_leaves
WIDTH, HEADS, VOCABULARY = 32, 4, 61


def tensors_in(value):
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


class Outputs(torch.nn.Module):
    """Calls a network with fixed keywords and hands on the named outputs."""

    def __init__(self, network, *names, **fixed):
        super().__init__()
        self.network, self.names, self.fixed = network, names, fixed

    def forward(self, *inputs):
        found = self.network(*inputs, **self.fixed)
        picked = [getattr(found, name) if name else found for name in self.names]
        return picked[0] if len(picked) == 1 else tuple(picked)


class TokensAndMask(Outputs):
    def forward(self, ids, mask):
        return super().forward(ids, mask)


class OneInput(Outputs):
    def forward(self, x):
        return super().forward(x)


def ids(batch, length=7):
    return torch.randint(3, VOCABULARY, (batch, length))


def images(batch, size=32):
    return torch.randn(batch, 3, size, size)


def bert():
    from transformers import BertConfig, BertForSequenceClassification
    network = BertForSequenceClassification(BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        intermediate_size=48, max_position_embeddings=32, num_labels=3))
    return TokensAndMask(network, "logits"), lambda b: (ids(b), torch.ones(b, 7, dtype=torch.long))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel
    network = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=WIDTH, n_layer=2,
                                         n_head=HEADS, use_cache=False))
    return OneInput(network, "logits"), lambda b: (ids(b),)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    network = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=32,
        tie_word_embeddings=True, use_cache=False))
    return OneInput(network, "logits"), lambda b: (ids(b),)


def llama_eager():
    network, inputs = llama()
    network.network.set_attn_implementation("eager")
    return network, inputs


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    class Pair(Outputs):
        def forward(self, source, target):
            return self.network(input_ids=source, decoder_input_ids=target, use_cache=False).logits

    network = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=48,
                                                  num_layers=2, num_heads=HEADS, decoder_start_token_id=0))
    return Pair(network), lambda b: (ids(b), ids(b, 5))


def vit():
    from transformers import ViTConfig, ViTForImageClassification
    network = ViTForImageClassification(ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=48,
        image_size=32, patch_size=8, num_labels=5))
    return OneInput(network, "logits"), lambda b: (images(b),)


def swin():
    from transformers import SwinConfig, SwinForImageClassification
    network = SwinForImageClassification(SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4,
        num_labels=5))
    return OneInput(network, "logits"), lambda b: (images(b),)


def segformer():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    network = SegformerForSemanticSegmentation(SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=24, num_labels=5))
    return OneInput(network, "logits"), lambda b: (images(b),)


def whisper():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    class Speech(Outputs):
        def forward(self, features, tokens):
            return self.network(input_features=features, decoder_input_ids=tokens, use_cache=False).logits

    network = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=8, encoder_layers=2, encoder_attention_heads=HEADS,
        decoder_layers=2, decoder_attention_heads=HEADS, encoder_ffn_dim=48, decoder_ffn_dim=48,
        d_model=WIDTH, max_source_positions=10, max_target_positions=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None))
    return Speech(network), lambda b: (torch.randn(b, 8, 20), ids(b, 5))


def mamba():
    from transformers import MambaConfig, MambaForCausalLM
    network = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, state_size=4,
                                           num_hidden_layers=2, use_cache=False, use_mambapy=False))
    return OneInput(network, "logits", use_cache=False), lambda b: (ids(b),)


def unet2d():
    from diffusers import UNet2DModel
    network = UNet2DModel(sample_size=16, in_channels=3, out_channels=3, layers_per_block=1,
                          block_out_channels=(16, 32), norm_num_groups=4, attention_head_dim=8,
                          down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                          up_block_types=("AttnUpBlock2D", "UpBlock2D"))

    class Denoise(Outputs):
        def forward(self, x, steps):
            return self.network(x, steps).sample

    return Denoise(network), lambda b: (images(b, 16), torch.randint(0, 100, (b,)))


def autoencoder_kl():
    from diffusers import AutoencoderKL

    class RoundTrip(Outputs):
        def forward(self, x):
            return self.network.decode(self.network.encode(x).latent_dist.mode()).sample

    network = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                            block_out_channels=(16, 32), norm_num_groups=4, latent_channels=4, sample_size=16)
    return RoundTrip(network), lambda b: (images(b, 16),)


def sam_encoder():
    from transformers import SamVisionConfig, SamVisionModel
    network = SamVisionModel(SamVisionConfig(
        hidden_size=WIDTH, output_channels=16, num_hidden_layers=2, num_attention_heads=HEADS, image_size=64,
        patch_size=8, window_size=4, global_attn_indexes=[1], mlp_dim=48, num_pos_feats=8))
    return OneInput(network, "last_hidden_state"), lambda b: (images(b, 64),)


def clip_text():
    from transformers import CLIPTextConfig, CLIPTextModel
    network = CLIPTextModel(CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, max_position_embeddings=16, eos_token_id=2, bos_token_id=0, pad_token_id=1))
    return OneInput(network, "last_hidden_state"), lambda b: (ids(b),)


def convnext_v2():
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification
    network = ConvNextV2ForImageClassification(ConvNextV2Config(
        hidden_sizes=[16, 32], depths=[1, 2], num_stages=2, image_size=32, num_labels=5))
    return OneInput(network, "logits"), lambda b: (images(b),)


ZOO = {make.__name__: make for make in (
    bert, gpt2, llama, llama_eager, t5, vit, swin, segformer, whisper, mamba, unet2d, autoencoder_kl,
    sam_encoder, clip_text, convnext_v2)}


def spread(module):
    """Random norms and layer scales, so that nothing is hidden behind zeros and ones."""
    for name, tensor in list(module.named_parameters()) + list(module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        with torch.no_grad():
            if tensor.dim() == 1 and ("norm" in name.lower() or "running_var" in name) and "bias" not in name:
                tensor.uniform_(0.5, 1.5)
            elif "bias" in name or "running_mean" in name:
                tensor.normal_(std=0.3)
            elif tensor.dim() > 1 and isinstance(tensor, torch.nn.Parameter) and tensor.abs().max() < 0.2:
                tensor.normal_(std=tensor[0].numel() ** -0.5)
    return module


def export(folder, names):
    os.makedirs(folder, exist_ok=True)
    failed = []
    for name in names:
        torch.manual_seed(1)
        try:
            module, inputs = ZOO[name]()
            module = spread(module.eval().requires_grad_(True))
            args, batch = inputs(2), torch.export.Dim("batch", min=1)
            shapes = tuple({0: batch} for _ in args)
            try:
                program = torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
                batches = (2, 3)
            except Exception as error:  # a batch that the network itself fixes
                print(f"{name}: not with an open batch: {str(error).strip().splitlines()[0][:150]}")
                program, batches = torch.export.export(module, args, strict=False), (2,)
            torch.export.save(program, os.path.join(folder, name + ".pt2"))
            given, expected = {}, {}
            for size in batches:
                args = inputs(size)
                given.update({f"b{size}.in{i}": tensor.clone() for i, tensor in enumerate(args)})
                with torch.no_grad():
                    outputs = tensors_in(module(*args))
                expected.update({f"b{size}.out{i}": tensor for i, tensor in enumerate(outputs)})
            write_safetensors(os.path.join(folder, name + ".in.safetensors"), given)
            write_safetensors(os.path.join(folder, name + ".expected.safetensors"), expected)
            print(f"{name}: {sum(p.numel() for p in module.parameters()):,} parameters, "
                  f"{len(list(program.graph.nodes))} nodes", flush=True)
        except Exception as error:
            failed.append(name)
            print(f"{name}: NOT EXPORTED: {type(error).__name__}: {str(error).strip()[:400]}", flush=True)
    return 1 if failed else 0


def unpack_torchvision(shared, folder, names):
    for packed in sorted(os.listdir(shared) if os.path.isdir(shared) else []):
        name = packed.removesuffix(".pt2.xz")
        if name == packed or (names and name not in names):
            continue
        target = os.path.join(folder, name + ".pt2")
        if not os.path.exists(target):
            with lzma.open(os.path.join(shared, packed)) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
        shapes = json.load(open(os.path.join(shared, name + ".json")))
        for letter, kind, ending in (("x", "in", ".in.safetensors"), ("y", "out", ".expected.safetensors")):
            raw = open(os.path.join(shared, f"{name}.{letter}.f32"), "rb").read()
            tensor = torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shapes[letter])
            size = tensor.shape[0]
            write_safetensors(os.path.join(folder, name + ending), {f"b{size}.{kind}0": tensor})


def relative(got, expected):
    if got.shape != expected.shape:
        return float("inf")
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-12))


def check(folder, line):
    """(our error against eager, error of the cut archive in torch against ours, problems)"""
    at = lambda ending: os.path.join(folder, line["name"] + ending)  # noqa: E731
    outputs, expected = read_safetensors(at(".out.safetensors")), read_safetensors(at(".expected.safetensors"))
    ours = [relative(outputs[f"full.{key}"], value) for key, value in expected.items() if f"full.{key}" in outputs]
    problems = [] if ours else ["not run"]
    if "error" in line:
        problems.append("{}: {message} ({hint})".format(line["stage"], **line["error"]))
    if ours and max(ours) > 1e-4:
        problems.append(f"our executor differs from eager by {max(ours):.2g}")
    theirs = []
    if line["stage"] == "done":
        certificate = line["certificate"]
        if not certificate["passed"]:
            problems.append("certificate: {failure} (error {max_rel_error:.2g}, double {max_rel_error_f64:.2g}, "
                            "control {control:.2g}, invariant {invariance_exact})".format(**certificate))
        try:
            module, given = torch.export.load(at(".cut.pt2")).module(), read_safetensors(at(".in.safetensors"))
            for size in sorted({key.split(".")[0] for key in given}):
                count = len([key for key in given if key.startswith(size + ".")])
                with torch.no_grad():
                    got = tensors_in(module(*[given[f"{size}.in{i}"] for i in range(count)]))
                theirs += [relative(tensor, outputs[f"cut.{size}.out{i}"]) for i, tensor in enumerate(got)]
        except Exception as error:
            problems.append(f"torch cannot run the cut archive: {str(error).strip()[:300]}")
        if theirs and max(theirs) > 1e-4:
            problems.append(f"torch's output differs from ours by {max(theirs):.2g}")
    return max(ours, default=float("nan")), max(theirs, default=float("nan")), problems


def table(folder, names, cutter, shared):
    os.makedirs(folder, exist_ok=True)
    unpack_torchvision(shared, folder, names)
    wanted = set(names) or None
    rows, problems, reasons = [], [], {}  # reason -> network -> axes
    work = os.path.join(folder, "work")
    for file in sorted(os.listdir(folder)):
        name = file.removesuffix(".pt2")
        if name == file or "." in name or (wanted and name not in wanted):
            continue
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        for ending in (".pt2", ".in.safetensors", ".expected.safetensors"):
            os.link(os.path.join(folder, name + ending), os.path.join(work, name + ending))
        done = subprocess.run([cutter, work], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            problems.append(f"{name}: {cutter} ended with status {done.returncode}")
            continue
        line = json.loads(done.stdout.splitlines()[-1])
        ours, theirs, found = check(work, line)
        problems += [f"{name}: {text}" for text in found]
        for why in line.get("pins", {}).values():
            operator, _, rest = why.partition(" at '")
            counts = reasons.setdefault(f"{operator}:{rest.partition(chr(39) + ':')[2]}" if rest else why, {})
            counts[name] = counts.get(name, 0) + 1
        certificate, macs = line.get("certificate", {}), line.get("macs", [0, 0])
        rows.append([name, line.get("groups", ""), line.get("units", ""), len(line.get("pins", {})),
                     int(macs[0]), int(macs[1]), f"{ours:.1e}", f"{certificate.get('max_rel_error', float('nan')):.1e}",
                     f"{theirs:.1e}", f"{line['seconds']:.2f}", "FAILED" if found else line["stage"]])
        print(" ".join(map(str, rows[-1])), flush=True)
    shutil.rmtree(work, ignore_errors=True)
    head = ["network", "groups", "units", "pinned", "MACs", "after", "eager", "certificate", "torch", "s", ""]
    widths = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]
    print()
    for row in [head] + rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
    print("\nPinned, in axes of parameters:")
    for why, counts in sorted(reasons.items(), key=lambda item: -sum(item[1].values())):
        print(f"  {sum(counts.values()):4}  {why}  (" + ", ".join(f"{n} {c}" for n, c in counts.items()) + ")")
    print("", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["export", "table"])
    parser.add_argument("folder", nargs="?", default="build/zoo")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--cutter", default="build/tests/cut_folder")
    parser.add_argument("--shared", default="../shared/models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.action == "export":
        sys.exit(export(options.folder, options.names or list(ZOO)))
    sys.exit(table(options.folder, options.names, options.cutter, options.shared))
