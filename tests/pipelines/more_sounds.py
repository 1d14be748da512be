"""Further pipelines that make sounds, for the sweep alone: a line or two for each class."""

from typing import Any

import diffusers
from cases import NO_DECODER, ddim, texts, vae
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from parts import made_of, own, prompts, randomised, rows, seen, t5, words
from strangers import seeded
from torch import nn

from tiny_configs import TINY


def transformer(kind: str, **config: Any) -> nn.Module:
    return seeded(getattr(diffusers, kind), **config)


def stable_audio(kind: str) -> Any:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    decoder = seeded(
        diffusers.AutoencoderOobleck, encoder_hidden_size=4, downsampling_ratios=[1, 2], decoder_channels=4,
        decoder_input_channels=4, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip
    model = transformer("StableAudioDiTModel", **TINY["StableAudioDiTModel"] | {"global_states_input_dim": 16})
    parts = {
        "projection_model": seeded(
            StableAudioProjectionModel, text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=32
        )
    }
    scheduler = diffusers.EDMDPMSolverMultistepScheduler()
    return made_of(
        kind, vae=decoder, transformer=model, scheduler=scheduler, text_encoder=t5(8), tokenizer=words(), **parts
    )


def long_cat_audio(kind: str) -> Any:
    model = transformer(
        "LongCatAudioDiTTransformer", dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=12, latent_dim=4, ff_mult=2.0
    )
    sizes = {"channels": 4, "c_mults": [1, 2], "strides": [2], "latent_dim": 4, "encoder_latent_dim": 8}
    decoder = seeded(diffusers.LongCatAudioDiTVae, **sizes, downsampling_ratio=2, sample_rate=16)
    return made_of(kind, vae=decoder, transformer=model, text_encoder=t5(), tokenizer=words())


def stable_audio_3(kind: str) -> Any:
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

    model = transformer(
        "StableAudio3DiTModel", io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=12,
        global_cond_dim=12, local_add_cond_dim=5, timestep_features_dim=8, num_memory_tokens=2,
    )  # fmt: skip
    decoder = seeded(
        diffusers.AutoencoderSAME, patch_size=4, encoder_channels=8, encoder_c_mults=(2,), encoder_strides=(2,),
        encoder_transformer_depths=(1,), latent_dim=4, dim_heads=8, sampling_rate=16,
    )  # fmt: skip
    parts = {"vae": decoder, "text_encoder": t5(), "tokenizer": words()}
    parts |= {"duration_embedder": seeded(StableAudio3DurationEmbedder, output_dim=12, fourier_dim=8)}
    return getattr(diffusers, kind)(transformer=randomised(model), scheduler=FlowMatch(), **parts)


def audio_ldm_2(kind: str) -> Any:
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
    from transformers import GPT2Config, GPT2LMHeadModel, SpeechT5HifiGan, SpeechT5HifiGanConfig

    unet = seeded(
        AudioLDM2UNet2DConditionModel, sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
        layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=((None, 8, 12),) * 2,
        attention_head_dim=4,
    )  # fmt: skip
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=16, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4],
        resnet_kernel_sizes=[3, 7], resnet_dilation_sizes=[[1, 3, 5]] * 2, normalize_before=False,
    )  # fmt: skip
    language = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=1)
    parts = {"projection_model": seeded(AudioLDM2ProjectionModel, text_encoder_dim=8, text_encoder_1_dim=12,
        langauge_model_dim=8)}  # fmt: skip
    parts |= {"text_encoder_2": t5(), "tokenizer_2": words(), "feature_extractor": None, "vocoder": seeded(
        SpeechT5HifiGan, config=vocoder)}  # fmt: skip
    parts |= {"language_model": seeded(GPT2LMHeadModel, config=language), "scheduler": ddim()}
    return made_of(kind, vae=vae(in_channels=1, out_channels=1), unet=unet, **parts)


def audio_ldm_2_texts(batch: int) -> dict[str, Any]:
    return texts(batch, prompt_embeds=(6, 12), generated_prompt_embeds=(4, 8)) | seen(batch, "attention_mask")


def ace_step(kind: str) -> Any:
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
             "head_dim": 8}  # fmt: skip
    model = transformer(
        "AceStepTransformer1DModel", **sizes, num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4,
        sliding_window=4,
    )  # fmt: skip
    encoder = seeded(
        AceStepConditionEncoder, **sizes, text_hidden_dim=12, timbre_hidden_dim=4, num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
    )  # fmt: skip
    nn.init.normal_(encoder.silence_latent)  # it starts as zeros
    decoder = seeded(
        diffusers.AutoencoderOobleck, encoder_hidden_size=4, downsampling_ratios=[1, 2], decoder_channels=4,
        decoder_input_channels=4, channel_multiples=[2, 4], sampling_rate=16,
    )  # fmt: skip
    parts = {"vae": decoder, "text_encoder": t5(), "tokenizer": words()}
    return getattr(diffusers, kind)(transformer=model, condition_encoder=encoder, scheduler=FlowMatch(), **parts)


def sound(batch: int) -> Any:
    return rows(batch, 2, 16)


SOUNDS = [
    own("StableAudioPipeline", stable_audio, prompts, audio_end_in_s=4.0),
    own("StableAudio3Pipeline", stable_audio_3, prompts, NO_DECODER, duration=2.0, guidance_scale=4.0),
    own("StableAudio3AudioToAudioPipeline", stable_audio_3, prompts, NO_DECODER, duration=2.0, audio=sound),
    own("StableAudio3InpaintPipeline", stable_audio_3, prompts, NO_DECODER, duration=2.0, audio=sound,
        mask_start_seconds=0.5, mask_end_seconds=1.5),
    own("AudioLDM2Pipeline", audio_ldm_2, audio_ldm_2_texts),
    own("AceStepPipeline", ace_step, prompts, audio_duration=2.0),
    own("LongCatAudioDiTPipeline", long_cat_audio, prompts, audio_duration_s=1.0),
]  # fmt: skip
