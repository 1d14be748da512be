"""Configurations of small models for the contract tests, by diffusers' class: one for every registered family."""

from typing import Any

# fmt: off
TINY: dict[str, dict[str, Any]] = {
    "AuraFlowTransformer2DModel": {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_mmdit_layers": 2, "num_single_dit_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16,
        "pos_embed_max_size": 64,
    },
    "ChromaTransformer2DModel": {
        "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 12, "axes_dims_rope": (2, 2, 4), "approximator_num_channels": 8,
        "approximator_hidden_dim": 16, "approximator_layers": 1,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "time_embed_dim": 4,
        "text_embed_dim": 12, "num_layers": 2, "sample_width": 8, "sample_height": 8, "sample_frames": 9,
        "patch_size": 2, "max_text_seq_length": 8,
    },
    "DiTTransformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "in_channels": 4, "out_channels": 8,
        "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 1000, "activation_fn": "gelu-approximate",
    },
    "FluxTransformer2DModel": {
        "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 12, "axes_dims_rope": (2, 2, 4), "pooled_projection_dim": 8, "guidance_embeds": True,
    },
    "HunyuanDiT2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "patch_size": 2, "sample_size": 8,
        "hidden_size": 16, "num_layers": 4, "cross_attention_dim": 8, "cross_attention_dim_t5": 16,
        "pooled_projection_dim": 8, "text_len": 4, "text_len_t5": 6,
    },
    "LTXVideoTransformer3DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 12,
    },
    "LatteTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8, "patch_size": 2, "video_length": 2,
        "norm_type": "ada_norm_single",
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1,
        "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": (4, 2, 2),
        "axes_lens": (32, 32, 32), "cap_feat_dim": 12,
    },
    "MochiTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "pooled_projection_dim": 16,
        "in_channels": 4, "text_embed_dim": 16, "time_embed_dim": 4, "max_sequence_length": 16,
    },
    "PixArtTransformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "in_channels": 4, "out_channels": 8,
        "cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8, "norm_type": "ada_norm_single",
        "use_additional_conditions": False,
    },
    "QwenImageTransformer2DModel": {
        "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 12, "axes_dims_rope": (4, 6, 6),
    },
    "SD3Transformer2DModel": {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 16,
        "pos_embed_max_size": 8, "dual_attention_layers": (0,),
    },
    "SanaTransformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
        "caption_channels": 12, "sample_size": 8,
    },
    "StableAudioDiTModel": {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 2, "num_key_value_attention_heads": 2, "cross_attention_dim": 8, "time_proj_dim": 8,
        "global_states_input_dim": 8, "cross_attention_input_dim": 8,
    },
    "UNet2DConditionModel": {
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16, 16),
        "layers_per_block": 1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 12,
        "attention_head_dim": 2, "norm_num_groups": 4,
    },
    "UNet2DModel": {
        "sample_size": 16, "block_out_channels": (8, 16, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8, "norm_num_groups": 4,
    },
    "WanTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 12,
        "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
    },
}
