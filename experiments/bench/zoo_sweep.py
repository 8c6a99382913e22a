"""One small network of every family that a library knows, for `zoo_export.py table`.

zoo_sweep.py timm         [FOLDER] [FAMILY...]   the smallest network of each module of timm
zoo_sweep.py transformers [FOLDER] [TYPE...]     each type with a tiny random configuration
zoo_sweep.py LIBRARY      [FOLDER] [NAME...]     vit-pytorch, x-transformers, monai, smp, ultralytics
zoo_export.py table FOLDER                       reads, cuts, certifies and checks them all

FOLDER is build/sweep unless given. Needs the library (`pip install timm torchvision transformers`,
vit-pytorch, x-transformers, monai, segmentation-models-pytorch, ultralytics); run by hand.
"""
import argparse
import os
import re
import signal
import sys

import torch

import zoo_export
import zoo_libraries

MOST_PARAMETERS, SECONDS = 60e6, 240
SMALL = re.compile(r"tiny|nano|pico|atto|femto|xxs|xs|small|_s\b|_s_|t0|b0|_0|18|t1|050|_m0|n3|mini|lite|test")
TEXT = """albert bert big_bird biogpt bitnet bloom camembert codegen cohere convbert deberta
deberta-v2 distilbert electra ernie exaone4 fnet gemma gemma2 gemma3_text glm gpt_bigcode gpt_neo gpt_neox
gptj granite helium ibert mamba2 megatron-bert mistral mobilebert modernbert mpt mra nemotron olmo olmo2 opt
persimmon phi phi3 qwen2 qwen3 recurrent_gemma rembert roberta roformer rwkv smollm3 squeezebert stablelm
starcoder2 xglm""".split()
EXPERTS = """deepseek_v3 ernie4_5_moe glm4_moe gpt_oss granitemoe mixtral olmoe phimoe qwen2_moe qwen3_moe""".split()
# Not vit_mae: its masks are random in eval mode, too.
IMAGES = """beit bit clip_vision_model convnext convnextv2 cvt deit dinov2 dpt efficientnet focalnet glpn ijepa
levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer pvt pvt_v2 regnet resnet segformer
siglip_vision_model swiftformer swinv2 textnet vit vit_msn vitdet""".split()
# What configurations call their sizes; each type takes those it has.
TINY = dict(
    hidden_size=32, d_model=32, n_embd=32, dim=32, embedding_size=32, embed_dim=32, word_embed_proj_dim=32,
    true_hidden_size=32, intra_bottleneck_size=32, attention_hidden_size=32, num_hidden_layers=2, n_layer=2,
    n_layers=2, num_layers=2, encoder_layers=2, decoder_layers=2, num_attention_heads=4, n_head=4, n_heads=4,
    num_heads=4, num_key_value_heads=2, head_dim=8, d_head=8, rotary_dim=4, intermediate_size=48, ffn_dim=48,
    hidden_dim=48, d_inner=48, n_inner=48, vocab_size=61, max_position_embeddings=32, n_positions=32, n_ctx=32,
    moe_intermediate_size=24, shared_expert_intermediate_size=24, num_experts=4, num_local_experts=4,
    n_routed_experts=4, moe_num_experts=4, num_experts_per_tok=2, moe_k=2, n_group=1, topk_group=1,
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1,
    max_seq_len=32, context_length=32, image_size=32, patch_size=8, state_size=8, n_groups=2, pad_token_id=0,
    bos_token_id=1, eos_token_id=2)
# Types whose sizes are lists by stage: as they come, on small images.
BY_STAGE = {"levit": 224, **dict.fromkeys(
    "swinv2 focalnet pvt pvt_v2 cvt convnext convnextv2 regnet resnet segformer poolformer swiftformer "
    "mobilevit mobilevitv2 efficientnet".split(), 64)}


NAMES_ONLY = torch.library.Library("torchvision", "FRAGMENT")


class Output(torch.nn.Module):
    """The first tensor of what a transformer hands back."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        found = self.network(x)
        if getattr(found, "last_hidden_state", None) is not None:
            return found.last_hidden_state
        return next(value for value in found.values() if isinstance(value, torch.Tensor))


def transformer(kind):
    from transformers import CONFIG_MAPPING, AutoModel
    config_class = CONFIG_MAPPING[kind]
    usual = config_class()
    sizes = {name: value for name, value in TINY.items()
             if hasattr(usual, name) and not isinstance(getattr(usual, name), (list, tuple))}
    if kind in BY_STAGE:
        sizes = {"image_size": BY_STAGE[kind]}
    if kind == "gpt_neo":
        sizes.update(attention_types=[[["global", "local"], 1]], window_size=4)
    if kind == "mamba2":
        sizes.update(num_heads=8)
    config = config_class(**sizes)
    config.use_cache = False
    network = AutoModel.from_config(config)
    if hasattr(network, "set_experts_implementation"):  # the usual loop over experts is data-dependent
        network.set_experts_implementation("batched_mm")
    if network.main_input_name != "pixel_values":
        return Output(network), lambda batch: (zoo_export.ids(batch, 8),)
    size = getattr(config, "image_size", 64)
    size = size if isinstance(size, int) else size[0]
    return Output(network), lambda batch: (torch.randn(batch, getattr(config, "num_channels", 3), size, size),)


class FirstTensor(torch.nn.Module):
    """The first floating tensor of what a network hands back."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return next(tensor for tensor in zoo_export.tensors_in(self.network(*inputs)) if tensor.is_floating_point())


def taking(count):
    """FirstTensor with so many inputs by name: torch.export counts them."""
    names, made = ", ".join(f"x{i}" for i in range(count)), {}
    exec(f"def forward(self, {names}): return FirstTensor.forward(self, {names})", {"FirstTensor": FirstTensor}, made)
    return type(f"FirstTensorOf{count}", (FirstTensor,), made)


def tried(make, shapes):
    """The network, and inputs of the first shape that it takes."""
    network, error = make().eval(), None
    for shape in shapes:
        shape = shape if isinstance(shape, list) else [shape]

        def inputs(batch, shape=shape):
            return tuple(one(batch) if callable(one) else torch.randn(batch, *one) for one in shape)
        try:
            with torch.no_grad():
                network(*inputs(2))
            return taking(len(shape))(network), inputs
        except Exception as problem:
            error = problem
    raise error


def import_torchvision():
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # its operators were built for another torch: their names are enough
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d",
                     "_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward",
                     "_ps_roi_pool_backward", "_deform_conv2d_backward"):
            NAMES_ONLY.define(f"{name}(Tensor x) -> Tensor")


def smallest(timm, family):
    names = sorted(timm.list_models(module=family), key=lambda name: (not SMALL.search(name), len(name)))
    sizes = []
    for name in names[:7]:
        try:
            with torch.device("meta"):
                network = timm.create_model(name)
        except Exception:  # some compute with their parameters when they are made
            network = timm.create_model(name)
        sizes.append((sum(p.numel() for p in network.parameters()), name))
    return min(sizes)


def image_network(timm, name):
    """The network and the smallest images it takes."""
    network, error = timm.create_model(name, num_classes=10, pretrained=False).eval(), None
    for size in (64, 96, 128, 160, 192, 224, 240, 256, 288, 384, 512):
        try:
            with torch.no_grad():
                network(torch.randn(2, 3, size, size))
            return network, lambda batch, size=size: (torch.randn(batch, 3, size, size),)
        except Exception as problem:
            error = problem
    raise error


def out_of_time(*_):
    raise TimeoutError(f"not exported in {SECONDS} s")


def export(folder, name, make):
    if os.path.exists(os.path.join(folder, name + ".expected.safetensors")):
        return
    zoo_export.ZOO[name] = make
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(SECONDS)
    try:
        zoo_export.export(folder, [name])
    except TimeoutError as error:
        print(f"{name}: {error}", flush=True)
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["timm", "transformers", *zoo_libraries.LIBRARIES])
    parser.add_argument("folder", nargs="?", default="build/sweep")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(options.folder, exist_ok=True)
    import_torchvision()
    if options.library in zoo_libraries.LIBRARIES:
        networks = zoo_libraries.LIBRARIES[options.library]()
        for name in options.names or networks:
            export(options.folder, f"{options.library.replace('-', '_')}_{name}", lambda name=name: tried(*networks[name]))
    elif options.library == "timm":
        import timm
        for family in options.names or timm.list_modules():
            parameters, name = smallest(timm, family)
            if parameters > MOST_PARAMETERS:
                print(f"{name}: left out, {parameters:,} parameters", flush=True)
                continue
            export(options.folder, "timm_" + name, lambda name=name: image_network(timm, name))
    else:
        for kind in options.names or TEXT + EXPERTS + IMAGES:
            export(options.folder, "hf_" + kind.replace("-", "_"), lambda kind=kind: transformer(kind))
