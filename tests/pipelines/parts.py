"""Tiny encoders, decoders and pictures that pipelines share, and cases that are called by the class of a pipeline."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import diffusers
import torch
from cases import NO_TEXT, Case, picture, random
from PIL import Image
from strangers import seeded
from torch import Tensor, nn

WORDS = "a picture of one red apple"


def words(length: int = 7) -> Any:
    """A tokenizer of a few words."""
    from stepmask_lab.reference.captions import tokenizer

    made = tokenizer([WORDS.split()])
    made.model_max_length = length
    return made


def _clip_text_config(width: int, projection: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=16, hidden_size=width, intermediate_size=8, projection_dim=projection, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def clip_text(width: int = 12) -> nn.Module:
    from transformers import CLIPTextModel

    return seeded(CLIPTextModel, config=_clip_text_config(width, width))


def clip_text_projected(width: int = 12, projection: int = 12) -> nn.Module:
    from transformers import CLIPTextModelWithProjection

    return seeded(CLIPTextModelWithProjection, config=_clip_text_config(width, projection))


def t5(width: int = 12) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=16, d_model=width, d_kv=6, d_ff=12, num_layers=1, num_heads=2, dropout_rate=0.0)
    return seeded(T5EncoderModel, config=config)


def clip_vision(width: int = 8, projection: int = 8, kind: str = "CLIPVisionModelWithProjection") -> nn.Module:
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=width, projection_dim=projection, intermediate_size=8, image_size=32, patch_size=8,
        num_hidden_layers=2, num_attention_heads=2,
    )  # fmt: skip
    return seeded(getattr(transformers, kind), config=config)


def siglip(width: int = 8) -> tuple[nn.Module, Any]:
    """What reads a picture, and what prepares it."""
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    return seeded(SiglipVisionModel, config=config), SiglipImageProcessor(size={"height": 32, "width": 32})


def image_reader() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(crop_size=32, size=32)


def image(number: int = 0, size: int = 32, channels: int = 3) -> Image.Image:
    """A picture as users give it."""
    pixels = (255 * picture(number + 1, channels, size)[number]).byte().movedim(0, -1).numpy()
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)


def images(batch: int, size: int = 32, channels: int = 3) -> list[Image.Image]:
    return [image(number, size, channels) for number in range(batch)]


def quantised_autoencoder(latent_channels: int = 4, **config: Any) -> nn.Module:
    """Halves height and width."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small = {"block_out_channels": (4, 4), "norm_num_groups": 2, "num_vq_embeddings": 8} | blocks
    return seeded(diffusers.VQModel, latent_channels=latent_channels, **{**small, **config})


def made_of(kind: str, **parts: Any) -> Any:
    """A pipeline; of the texts' parts that are not given none."""
    return getattr(diffusers, kind)(**{**NO_TEXT, **parts})


def rows(batch: int, *shape: int) -> Tensor:
    """Something random for each image."""
    return random(batch, *shape, seed=6)


CONTROL_SIZES = {"control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 4}
"""Of ControlNets, what no configuration of a denoiser has."""


def of_config(kind: type, config: Mapping[str, Any]) -> Any:
    """A ControlNet with what it takes of a denoiser's configuration."""
    takes = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in {**CONTROL_SIZES, **config}.items() if name in takes})


def seen(batch: int, name: str, tokens: int = 6) -> dict[str, Tensor]:
    """Masks of texts without padding, by name and as ``negative_``."""
    return {f"{sign}{name}": torch.ones(batch, tokens) for sign in ("", "negative_")}


def small_llm(width: int = 12) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16, hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    return seeded(LlamaForCausalLM, config=config)


def randomised(net: nn.Module) -> nn.Module:
    """A model with other weights than zeros, which ControlNets and last layers begin with."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def own(kind: str, make: Callable[[str], Any], *given: Any, **named: Any) -> Case:
    """A case that is called by the class of its pipeline.

    Args:
        kind: The class.
        make: Builds it, given the name of its class.
        given: Arguments of its call, as dicts or as functions of the number of images.
        named: Further ones, as values or as functions of the number of images.
    """

    def inputs(batch: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in given:
            found |= part(batch) if callable(part) else part
        return found | {name: value(batch) if callable(value) else value for name, value in named.items()}

    return Case(kind, partial(make, kind), inputs)


SIDES = {"height": 32, "width": 32}


def prompts(batch: int) -> dict[str, Any]:
    return {"prompt": [WORDS] * batch}


def signed(batch: int, channels: int = 3, size: int = 32) -> Tensor:
    """Pictures between -1 and 1."""
    return 2 * picture(batch, channels, size) - 1


def hole(batch: int, size: int = 32) -> Tensor:
    """A mask of what is painted anew, of zeros and ones."""
    return picture(batch, 1, size).round()
