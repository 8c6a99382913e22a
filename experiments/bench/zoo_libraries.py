"""Small networks of further libraries, for zoo_sweep.py: name -> (maker, shapes of inputs to try).

A shape is one input's, without its batch; a list of shapes, or of functions of the batch, is several
inputs. The first that the network takes is used.
"""
import importlib
import inspect
import pkgutil

import torch

from zoo_diffusers import diffusers


def tokens(batch):
    return torch.randint(0, 60, (batch, 16))


def steps(batch):
    return torch.randint(0, 9, (batch,))


def vit_pytorch():
    """The classifier of every module of vit-pytorch, with one set of tiny sizes."""
    import vit_pytorch as library
    sizes = dict(
        image_size=64, patch_size=16, image_patch_size=16, num_classes=10, dim=32, depth=2, heads=4, dim_head=8,
        mlp_dim=48, cls_depth=1, seq_len=64, frames=4, frame_patch_size=2, freq_patch_size=4, spatial_depth=1,
        temporal_depth=1, max_tokens_per_depth=(16, 8), num_residual_streams=2, num_slots=4, sm_dim=32, lg_dim=48,
        num_hierarchies=2, block_repeats=(2, 2))
    tower = dict(dim=(16, 32, 48, 64), depth=(1, 1, 1, 1), num_classes=10)
    own = {"levit": dict(image_size=224, dim=(32, 48, 64), depth=1, heads=(2, 3, 4), mlp_mult=2),
           "pit": dict(depth=(1, 1, 1)), "crossformer": tower, "regionvit": tower,
           "max_vit": dict(depth=(1, 1), window_size=4, dim_conv_stem=16),
           "max_vit_with_registers": dict(depth=(1, 1), window_size=4, dim_conv_stem=16, num_register_tokens=2),
           "scalable_vit": dict(depth=(1,) * 4, heads=(1, 2, 4, 4), window_size=(8, 4, None, None),
                                reduction_factor=(8, 4, 2, 1)),
           "sep_vit": dict(depth=(1, 1), heads=(1, 2), dim=16, window_size=4)}
    # Ragged batches, adapters, and more than 200 million parameters.
    left_out = {"na_vit", "na_vit_nested_tensor", "na_vit_nested_tensor_3d", "learnable_memory_vit", "efficient",
                "twins_svt"}
    networks = {}
    for module in pkgutil.iter_modules(library.__path__):
        if module.name in left_out:
            continue
        try:
            found = importlib.import_module("vit_pytorch." + module.name)
        except (ImportError, OSError):  # wants a library for sound
            continue
        shapes = [(3, 64, 64), (3, 224, 224)]
        if "3d" in module.name or "vivit" in module.name:
            shapes = [(3, 4, 64, 64)]
        elif "1d" in module.name:
            shapes = [(3, 64)]
        for name, kind in inspect.getmembers(found, inspect.isclass):
            if kind.__module__ != found.__name__ or not issubclass(kind, torch.nn.Module):
                continue
            wanted = inspect.signature(kind.__init__).parameters
            if "num_classes" not in wanted or "args" in wanted:
                continue
            given = {key: sizes[key] for key, parameter in wanted.items() if key in sizes and (
                parameter.default is parameter.empty or key in ("dim_head", "num_classes"))}
            given.update(own.get(module.name, {}))
            networks[module.name] = (lambda kind=kind, given=given: kind(**given), shapes)
    return networks


def x_transformers():
    """One language model for each option of the decoder, and its other wrappers."""
    import x_transformers as library
    options = dict(
        plain={}, rotary=dict(rotary_pos_emb=True), xpos=dict(rotary_xpos=True),
        alibi=dict(alibi_pos_bias=True, alibi_num_heads=4), relative=dict(rel_pos_bias=True),
        dynamic=dict(dynamic_pos_bias=True), glu=dict(ff_glu=True, ff_swish=True, ff_no_bias=True),
        rms=dict(use_rmsnorm=True), scale_norm=dict(use_scalenorm=True), sandwich=dict(sandwich_norm=True),
        post_norm=dict(pre_norm=False), grouped=dict(attn_kv_heads=2), one_kv=dict(attn_one_kv_head=True),
        talking=dict(attn_pre_talking_heads=True, attn_post_talking_heads=True),
        qk_norm=dict(attn_qk_norm=True, attn_qk_norm_dim_scale=True), memory_kv=dict(attn_num_mem_kv=4),
        gated_values=dict(attn_gate_values=True), gru_residual=dict(gate_residual=True),
        scaled_residual=dict(scale_residual=True), macaron=dict(macaron=True), shift=dict(shift_tokens=1),
        on_attention=dict(attn_on_attn=True), top_k=dict(attn_sparse_topk=4),
        relu_squared=dict(ff_relu_squared=True), flash=dict(attn_flash=True), streams=dict(num_residual_streams=2),
        laser=dict(attn_laser=True), residual_attention=dict(residual_attn=True),
        soft_clamp=dict(attn_softclamp_logits=True), post_activation_norm=dict(ff_post_act_ln=True))
    layers = dict(dim=32, depth=2, heads=4, attn_dim_head=8)

    def model(**given):
        return library.TransformerWrapper(num_tokens=61, max_seq_len=32, attn_layers=library.Decoder(**layers, **given))

    networks = {name: (lambda given=given: model(**given), [[tokens]]) for name, given in options.items()}
    encoder = lambda: library.Encoder(**layers)  # noqa: E731
    networks["vit"] = (lambda: library.ViTransformerWrapper(
        image_size=32, patch_size=8, num_classes=10, attn_layers=encoder()), [(3, 32, 32)])
    networks["continuous"] = (lambda: library.ContinuousTransformerWrapper(
        dim_in=8, dim_out=6, max_seq_len=32, attn_layers=encoder()), [(16, 8)])
    networks["encoder_decoder"] = (lambda: library.XTransformer(
        dim=32, enc_num_tokens=61, enc_depth=1, enc_heads=4, enc_max_seq_len=32, dec_num_tokens=61, dec_depth=1,
        dec_heads=4, dec_max_seq_len=32), [[tokens, tokens]])
    return networks


def monai():
    from monai.networks import nets
    image, volume = [(1, 32, 32)], [(1, 16, 16, 16)]
    latent = dict(channels=(16, 32), num_res_blocks=(1, 1), attention_levels=(False, True), norm_num_groups=8)
    widths = dict(features=(8, 8, 16, 16, 32, 8))
    return {
        "unet": (lambda: nets.UNet(3, 1, 3, (8, 16, 32), (2, 2), num_res_units=2), volume),
        "basic_unet": (lambda: nets.BasicUNet(2, 1, 2, **widths), image),
        "basic_unet_plus_plus": (lambda: nets.BasicUNetPlusPlus(2, 1, 2, **widths), image),
        "attention_unet": (lambda: nets.AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2)), image),
        "ahnet": (lambda: nets.AHNet((1, 1, 1, 1), 2, 1, 2, psp_block_num=2), [(1, 64, 64)]),
        "autoencoder": (lambda: nets.AutoEncoder(2, 1, 1, (8, 16, 32), (2, 2, 2)), image),
        "densenet121": (lambda: nets.DenseNet121(2, 1, 3), [(1, 64, 64)]),
        "dynunet": (lambda: nets.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[8, 16, 32]), image),
        "dynunet_residual": (lambda: nets.DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[8, 16, 32],
                                                  res_block=True), volume),
        "generator": (lambda: nets.Generator((8,), (16, 4, 4), (16, 8, 1), (2, 2, 1)), [(8,)]),
        "discriminator": (lambda: nets.Discriminator((1, 32, 32), (8, 16, 32), (2, 2, 2)), image),
        "highresnet": (lambda: nets.HighResNet(3, 1, 2), volume),
        "regressor": (lambda: nets.Regressor((1, 16, 16), (1,), (8, 16), (2, 2)), [(1, 16, 16)]),
        "regunet": (lambda: nets.RegUNet(2, 1, 8, 2), image),
        "segresnet": (lambda: nets.SegResNet(3, 8, 1, 2), volume),
        "segresnet_vae": (lambda: nets.SegResNetVAE((16,) * 3, init_filters=8, in_channels=1, out_channels=2), volume),
        "segresnet_ds": (lambda: nets.SegResNetDS(3, 8, 1, 2), volume),
        "swin_unetr": (lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1,) * 4,
                                              num_heads=(1, 2, 2, 4)), [(1, 64, 64)]),
        "unetr": (lambda: nets.UNETR(1, 2, (32, 32), feature_size=8, hidden_size=32, mlp_dim=48, num_heads=4,
                                     spatial_dims=2), image),
        "var_autoencoder": (lambda: nets.VarAutoEncoder(2, (1, 16, 16), 1, 4, (8, 16), (2, 2)), [(1, 16, 16)]),
        "vit": (lambda: nets.ViT(1, (32, 32), (8, 8), 32, 48, 2, 4, spatial_dims=2, classification=True,
                                 num_classes=3), image),
        "vnet": (lambda: nets.VNet(2, 1, 2), image),
        "voxelmorph": (lambda: nets.VoxelMorphUNet(3, 2, 8, (8,) * 6, (8,) * 3), [(2, 16, 16, 16)]),
        "vqvae": (lambda: nets.VQVAE(
            2, 1, 1, channels=(8, 16), num_res_layers=1, num_res_channels=(8, 16), num_embeddings=16, embedding_dim=8,
            downsample_parameters=((2, 4, 1, 1),) * 2, upsample_parameters=((2, 4, 1, 1, 0),) * 2), image),
        "diffusion_unet": (lambda: nets.DiffusionModelUNet(2, 1, 1, num_head_channels=8, **latent),
                           [[(1, 16, 16), steps]]),
    }


def smp():
    """Every decoder of segmentation_models_pytorch, and its encoders under one of them."""
    import segmentation_models_pytorch as library
    shapes = [(3, 64, 64), (3, 96, 96), (3, 224, 224)]
    decoders = ("Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet Segformer").split()
    encoders = ("mobilenet_v2 efficientnet-b0 densenet121 vgg11_bn timm-regnetx_002 mit_b0 mobileone_s0 xception "
                "dpn68 inceptionv4 se_resnet50 tu-convnext_atto tu-hrnet_w18_small timm-skresnet18 "
                "timm-res2net50_26w_4s timm-gernet_s").split()

    def make(decoder, encoder, **given):
        return lambda: getattr(library, decoder)(encoder, encoder_weights=None, classes=3, **given)

    networks = {name.lower(): (make(name, "resnet18"), shapes) for name in decoders}
    networks["unet_scse"] = (make("Unet", "resnet18", decoder_attention_type="scse"), shapes)
    networks.update({"unet_" + name.replace("-", "_"): (make("Unet", name), shapes) for name in encoders})
    return networks


def ultralytics():
    """The smallest of each family, with heads that give raw boxes."""
    from ultralytics.nn import tasks

    def make(file, kind):
        network = getattr(tasks, kind)(file + ".yaml", verbose=False)
        for layer in network.modules():
            if hasattr(layer, "export") and hasattr(layer, "dynamic"):
                layer.export, layer.format = True, "torchscript"
        return network

    files = {name: "DetectionModel" for name in (
        "yolov3-tiny yolov5n yolov6n yolov8n yolov8n-ghost yolov8n-p2 yolov9t yolov9c yolov10n yolo11n yolo12n "
        "yolo26n").split()}
    files.update({"yolov8n-seg": "SegmentationModel", "yolov8n-pose": "PoseModel", "yolov8n-obb": "OBBModel",
                  "yolov8n-cls": "ClassificationModel", "yolov8n-rtdetr": "RTDETRDetectionModel"})
    return {name.replace("-", "_"): (lambda name=name, kind=kind: make(name, kind), [(3, 64, 64), (3, 128, 128)])
            for name, kind in files.items()}


LIBRARIES = {"vit-pytorch": vit_pytorch, "x-transformers": x_transformers, "monai": monai, "smp": smp,
             "ultralytics": ultralytics, "diffusers": diffusers}
