"""Pipelines and schedulers that the sweep leaves out, each with the reason in a sentence."""

QWEN = "it reads its prompt by a Qwen-VL with its processor alone, and takes no embeddings in place of that"
UPSAMPLES = "it runs no denoiser step by step: it makes latents larger in one pass"
WORDS_OF = "it makes words, not images: its model guesses tokens, and no sampler of this package follows that"

TOKENS = "it steps tokens, not noise, and no sampler of this package follows that; "

UNTRIED = {
    "ChromaInpaintPipeline": "diffusers 0.42 cannot run it: it asks the configuration of its transformer for "
    "`guidance_embeds`, which ChromaTransformer2DModel does not have",
    "EasyAnimateControlPipeline": "diffusers 0.42 cannot run it: it calls its own `encode_prompt` with an argument "
    "that this does not take",
    "EasyAnimateInpaintPipeline": "diffusers 0.42 cannot run it: it asks the configuration of its autoencoder for "
    "`cache_mag_vae`, which AutoencoderKLMagvit does not have",
    "Cosmos2_5_PredictBasePipeline": "it needs torchvision, which no test installs",
    "Cosmos2_5_TransferPipeline": "it needs torchvision, which no test installs",
    "StableDiffusionInpaintPipelineLegacy": "deprecated: StableDiffusionInpaintPipeline takes its place",
    "StableDiffusionPipelineSafe": "deprecated: StableDiffusionPipeline under the name of its safe guidance",
    "LEditsPPPipelineStableDiffusionXL": "refused by name as LEditsPPPipelineStableDiffusion is, for the same reason",
    "DiffusionPipeline": "the base of all pipelines, which loads others",
    "DiffusionGemmaPipeline": WORDS_OF,
    "LLaDA2Pipeline": WORDS_OF,
    "FluxPriorReduxPipeline": "it runs no denoiser: it makes embeddings of a picture for another pipeline",
    "LTXLatentUpsamplePipeline": UPSAMPLES,
    "LTX2LatentUpsamplePipeline": UPSAMPLES,
    "Ideogram4Pipeline": QWEN,
    "LongCatImagePipeline": QWEN,
    "LongCatImageEditPipeline": QWEN,
    "QwenImageLayeredPipeline": QWEN,
    "OmniGenPipeline": "it needs torchvision, which no test installs",
    "QwenImageEditInpaintPipeline": "it makes images of about a million pixels alone, which is too many for a test",
    "Kandinsky5T2IPipeline": "it makes images of about a million pixels alone, which is too many for a test",
    "Kandinsky5I2IPipeline": "it makes images of about a million pixels alone, which is too many for a test",
    "JoyImageEditPipeline": "it makes images of about a million pixels alone, which is too many for a test",
    "LTX2DFRTemporalRefinePipeline": "it refines, part by part, what LTX2DFRPipeline and an upsampler have made, which "
    "no test chains; its transformer is that of LTX2DFRPipeline",
    "LTX2VideoDiffusionDecodePipeline": "its steps are within its decoder, where no scheduler tells a mask the row",
    "RFD4ProteinaPipeline": "it makes proteins, and has two schedulers at once where a mask follows one",
    "RFD4ProteinaScheduler": "RFD4ProteinaPipeline has two of them, and a mask follows one",
    "AmusedScheduler": TOKENS + "its pipelines are deprecated",
    "BlockRefinementScheduler": TOKENS + "LLaDA2Pipeline makes words with it",
    "DiscreteDDIMScheduler": TOKENS + "DiffusionGemmaPipeline makes words with it",
    "EntropyBoundScheduler": TOKENS + "DiffusionGemmaPipeline makes words with it",
    "VQDiffusionScheduler": TOKENS + "its pipeline is deprecated",
    "ScoreSdeVeScheduler": "it has no `step`, as a mask needs it to know the row; its pipeline is deprecated",
}
