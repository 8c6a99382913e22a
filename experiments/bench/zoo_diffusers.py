"""Small networks of diffusers, for zoo_sweep.py: name -> (class, configuration, inputs by keyword).

An input is a shape without its batch, or a function of the batch.
"""
import inspect

import torch

UNET = dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, sample_size=16)
CROSS = dict(UNET, cross_attention_dim=24, attention_head_dim=4, in_channels=4, out_channels=4)
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
CODER = dict(block_out_channels=(16, 32), norm_num_groups=8, latent_channels=4, layers_per_block=1)
CODER_BLOCKS = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)


def steps(batch):
    return torch.arange(batch) + 3


def classes(batch):
    return torch.arange(batch) % 5


def places(*rows):
    return lambda batch: torch.zeros(*rows)


IMAGE, LATENT, TEXT, VIDEO = (3, 16, 16), (4, 16, 16), (7, 24), (4, 4, 16, 16)
NETWORKS = {
    "unet_1d": ("UNet1DModel", dict(
        block_out_channels=(16, 16, 32), in_channels=14, out_channels=14, sample_size=32, layers_per_block=1,
        time_embedding_type="positional", use_timestep_embedding=True, freq_shift=1.0, flip_sin_to_cos=False,
        out_block_type="OutConv1DBlock", mid_block_type="MidResTemporalBlock1D", act_fn="swish",
        down_block_types=("DownResnetBlock1D",) * 3, up_block_types=("UpResnetBlock1D",) * 2),
        dict(sample=(14, 32), timestep=steps)),
    "unet_text": ("UNet2DConditionModel", dict(CROSS, down_block_types=DOWN, up_block_types=UP),
                  dict(sample=LATENT, timestep=steps, encoder_hidden_states=TEXT)),
    "unet_linear": ("UNet2DConditionModel", dict(
        CROSS, down_block_types=DOWN, up_block_types=UP, use_linear_projection=True),
        dict(sample=LATENT, timestep=steps, encoder_hidden_states=TEXT)),
    "unet_scale_shift": ("UNet2DModel", dict(
        UNET, resnet_time_scale_shift="scale_shift", down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), attention_head_dim=4),
        dict(sample=IMAGE, timestep=steps)),
    "unet_skip": ("UNet2DModel", dict(
        UNET, down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"), block_out_channels=(32, 32),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"), attention_head_dim=4),
        dict(sample=IMAGE, timestep=steps)),
    "unet_3d": ("UNet3DConditionModel", dict(
        CROSS, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D")),
        dict(sample=VIDEO, timestep=steps, encoder_hidden_states=TEXT)),
    "unet_cascade": ("StableCascadeUNet", dict(
        in_channels=4, out_channels=4, conditioning_dim=32, block_out_channels=(16, 32), num_attention_heads=(2, 4),
        down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1), block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock",
                                                                 "SDCascadeAttnBlock"),) * 2,
        clip_text_in_channels=24, clip_text_pooled_in_channels=24, clip_image_in_channels=24, clip_seq=2,
        timestep_ratio_embedding_dim=16, timestep_conditioning_type=("sca",), switch_level=(False,)),
        dict(sample=LATENT, timestep_ratio=lambda batch: torch.rand(batch), clip_text_pooled=(1, 24),
             clip_text=(7, 24), clip_img=(1, 24))),
    "controlnet": ("ControlNetModel", dict(
        {key: value for key, value in CROSS.items() if key not in ("sample_size", "out_channels")},
        down_block_types=DOWN, conditioning_embedding_out_channels=(8, 16)),
        dict(sample=LATENT, timestep=steps, encoder_hidden_states=TEXT, controlnet_cond=(3, 32, 32))),
    "t2i_adapter": ("T2IAdapter", dict(channels=[16, 32], num_res_blocks=2, downscale_factor=4),
                    dict(x=(3, 32, 32))),
    "vae_asymmetric": ("AsymmetricAutoencoderKL", dict(
        CODER_BLOCKS, down_block_out_channels=(16, 32), up_block_out_channels=(16, 32), norm_num_groups=8),
        dict(sample=IMAGE)),
    "vae_tiny": ("AutoencoderTiny", dict(
        encoder_block_out_channels=(16, 16), decoder_block_out_channels=(16, 16), num_encoder_blocks=(1, 2),
        num_decoder_blocks=(2, 1)), dict(sample=IMAGE)),
    "vae_dc": ("AutoencoderDC", dict(
        latent_channels=4, attention_head_dim=4, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.4), dict(sample=IMAGE)),
    "vae_temporal": ("AutoencoderKLTemporalDecoder", dict(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 64), layers_per_block=1,
        latent_channels=4), dict(sample=IMAGE)),
    "vae_oobleck": ("AutoencoderOobleck", dict(
        encoder_hidden_size=16, downsampling_ratios=[2, 4], decoder_channels=16, decoder_input_channels=8,
        audio_channels=2, channel_multiples=[1, 2]), dict(sample=(2, 64))),
    "vq": ("VQModel", dict(
        CODER_BLOCKS, block_out_channels=(16, 32), norm_num_groups=8, latent_channels=3, num_vq_embeddings=32),
        dict(sample=IMAGE)),
    "vae_cogvideox": ("AutoencoderKLCogVideoX", dict(
        down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(16, 32), latent_channels=4, layers_per_block=1, norm_num_groups=8,
        temporal_compression_ratio=2), dict(sample=(3, 5, 16, 16))),
    "vae_wan": ("AutoencoderKLWan", dict(base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
                                         temperal_downsample=[False, True, True]), dict(sample=(3, 1, 32, 32))),
    "vae_hunyuan": ("AutoencoderKLHunyuanVideo", dict(
        block_out_channels=(16, 16, 16, 32), down_block_types=("HunyuanVideoDownBlock3D",) * 4, norm_num_groups=8,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, latent_channels=4, layers_per_block=1),
        dict(sample=(3, 5, 16, 16))),
    "vae_ltx": ("AutoencoderKLLTXVideo", dict(
        latent_channels=8, block_out_channels=(16, 16, 16, 16), decoder_block_out_channels=(16, 16, 16, 16),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, patch_size=1, patch_size_t=1,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), encoder_causal=True, decoder_causal=False),
        dict(sample=(3, 9, 16, 16))),
    "vae_mochi": ("AutoencoderKLMochi", dict(
        latent_channels=4, encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1)), dict(sample=(3, 7, 16, 16))),
    "vae_qwen": ("AutoencoderKLQwenImage", dict(base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
                                                temperal_downsample=[False, True, True],
                                                latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
                 dict(sample=(3, 1, 32, 32))),
    "transformer_2d": ("Transformer2DModel", dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, norm_num_groups=8, cross_attention_dim=24),
        dict(hidden_states=(32, 8, 8), encoder_hidden_states=TEXT)),
    "dit": ("DiTTransformer2DModel", dict(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8,
        num_embeds_ada_norm=8), dict(hidden_states=(4, 8, 8), timestep=steps, class_labels=classes)),
    "pixart": ("PixArtTransformer2DModel", dict(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        cross_attention_dim=32, caption_channels=24, use_additional_conditions=False),
        dict(hidden_states=(4, 8, 8), encoder_hidden_states=TEXT, timestep=steps)),
    "sd3": ("SD3Transformer2DModel", dict(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=8), dict(hidden_states=(4, 8, 8), encoder_hidden_states=TEXT, pooled_projections=(24,),
                                    timestep=steps)),
    "sd35": ("SD3Transformer2DModel", dict(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm"),
        dict(hidden_states=(4, 8, 8), encoder_hidden_states=TEXT, pooled_projections=(24,), timestep=steps)),
    "flux": ("FluxTransformer2DModel", dict(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=24, axes_dims_rope=[4, 4, 8]),
        dict(hidden_states=(16, 4), encoder_hidden_states=TEXT, pooled_projections=(24,),
             timestep=lambda batch: torch.rand(batch), img_ids=places(16, 3), txt_ids=places(7, 3))),
    "chroma": ("ChromaTransformer2DModel", dict(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16),
        dict(hidden_states=(16, 4), encoder_hidden_states=TEXT, timestep=lambda batch: torch.rand(batch),
             img_ids=places(16, 3), txt_ids=places(7, 3))),
    "auraflow": ("AuraFlowTransformer2DModel", dict(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=24, caption_projection_dim=32, pos_embed_max_size=64),
        dict(hidden_states=(4, 8, 8), encoder_hidden_states=TEXT, timestep=lambda batch: torch.rand(batch))),
    "latte": ("LatteTransformer3DModel", dict(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=4, caption_channels=24,
        in_channels=4, cross_attention_dim=32, out_channels=8, norm_elementwise_affine=False, attention_bias=True,
        activation_fn="gelu-approximate", norm_type="ada_norm_single", video_length=4),
        dict(hidden_states=(4, 4, 8, 8), timestep=steps, encoder_hidden_states=TEXT)),
    "cogvideox": ("CogVideoXTransformer3DModel", dict(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=24, num_layers=2, sample_width=8, sample_height=8, sample_frames=9, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=7),
        dict(hidden_states=(3, 4, 8, 8), encoder_hidden_states=TEXT, timestep=steps)),
    "cogview3": ("CogView3PlusTransformer2DModel", dict(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4, out_channels=4,
        text_embed_dim=24, time_embed_dim=8, condition_dim=4, pos_embed_max_size=8, sample_size=8),
        dict(hidden_states=(4, 8, 8), encoder_hidden_states=TEXT, timestep=steps,
             original_size=lambda batch: torch.tensor([[20, 20]] * batch),
             target_size=lambda batch: torch.tensor([[20, 20]] * batch),
             crop_coords=lambda batch: torch.tensor([[0, 0]] * batch))),
    "mochi": ("MochiTransformer3DModel", dict(
        patch_size=2, num_attention_heads=4, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=4, qk_norm="rms_norm", text_embed_dim=24, time_embed_dim=4, max_sequence_length=7),
        dict(hidden_states=(4, 2, 8, 8), encoder_hidden_states=TEXT, timestep=steps,
             encoder_attention_mask=lambda batch: torch.ones(batch, 7, dtype=torch.bool))),
    "ltx": ("LTXVideoTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=2, caption_channels=24, qk_norm="rms_norm_across_heads"),
        dict(hidden_states=(32, 4), encoder_hidden_states=TEXT, timestep=steps,
             encoder_attention_mask=lambda batch: torch.ones(batch, 7), num_frames=2, height=4, width=4)),
    "sana": ("SanaTransformer2DModel", dict(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32, caption_channels=24,
        sample_size=8), dict(hidden_states=(4, 8, 8), encoder_hidden_states=TEXT, timestep=steps)),
    "wan": ("WanTransformer3DModel", dict(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=24, freq_dim=16, ffn_dim=48, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32), dict(hidden_states=(4, 2, 8, 8), timestep=steps, encoder_hidden_states=TEXT)),
    "hunyuan_video": ("HunyuanVideoTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=24,
        pooled_projection_dim=16, rope_axes_dim=(2, 2, 4)),
        dict(hidden_states=(4, 1, 8, 8), timestep=steps, encoder_hidden_states=TEXT,
             encoder_attention_mask=lambda batch: torch.ones(batch, 7), pooled_projections=(16,), guidance=steps)),
    "stable_audio": ("StableAudioDiTModel", dict(
        sample_size=4, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        num_key_value_attention_heads=2, out_channels=4, cross_attention_dim=24, time_proj_dim=16,
        global_states_input_dim=8, cross_attention_input_dim=24),
        dict(hidden_states=(4, 8), timestep=steps, encoder_hidden_states=TEXT, global_hidden_states=(1, 8),
             rotary_embedding=lambda batch: (torch.rand(9, 4), torch.rand(9, 4)))),
    "prior": ("PriorTransformer", dict(
        num_attention_heads=4, attention_head_dim=8, num_layers=2, embedding_dim=24, num_embeddings=7,
        additional_embeddings=4), dict(hidden_states=(24,), timestep=steps, proj_embedding=(24,),
                                       encoder_hidden_states=TEXT)),
    "cosmos": ("CosmosTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=24, adaln_lora_dim=4, max_size=(4, 8, 8), patch_size=(1, 2, 2), concat_padding_mask=False),
        dict(hidden_states=(4, 1, 8, 8), timestep=steps, encoder_hidden_states=TEXT)),
    "transformer_cross": ("Transformer2DModel", dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, norm_num_groups=8, cross_attention_dim=24,
        use_linear_projection=True, only_cross_attention=True),
        dict(hidden_states=(32, 8, 8), encoder_hidden_states=TEXT)),
    "temporal": ("TransformerTemporalModel", dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, norm_num_groups=8),
        dict(hidden_states=(32, 8, 8), num_frames=1)),
}


class ByKeyword(torch.nn.Module):
    """A network whose tensors are given in order and everything else is fixed."""

    def __init__(self, network, names, fixed):
        super().__init__()
        self.network, self.names, self.fixed = network, names, fixed

    def forward(self, *tensors):
        return self.network(**dict(zip(self.names, tensors)), **self.fixed)


def diffusers():
    import diffusers as library

    def is_input(value):
        value = value(2) if callable(value) else value
        return torch.is_tensor(value) or (isinstance(value, tuple) and isinstance(value[0], int))

    def make(kind, config, given):
        fixed = {key: value(2) if callable(value) else value for key, value in given.items() if not is_input(value)}
        names, network = [key for key in given if key not in fixed], getattr(library, kind)(**config)
        if "return_dict" in inspect.signature(network.forward).parameters:
            fixed["return_dict"] = False
        return ByKeyword(network, names, fixed)

    return {name: (lambda case=case: make(*case), [[value for value in case[2].values() if is_input(value)]])
            for name, case in NETWORKS.items()}
