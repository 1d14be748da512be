"""Which pipeline ends up running which scheduler."""

import pytest
import torch

from small import pixart_pipeline
from stepmask.cli.common.arguments import Scheduler
from stepmask.cli.common.models import CLASSES, load
from stepmask_lab import reference


def test_every_name_has_a_class():
    assert set(CLASSES) == set(Scheduler) - {Scheduler.keep}


@pytest.mark.parametrize(("name", "from_ddim", "from_ddpm"), [
    (Scheduler.keep, "DDIMPipeline", "DDPMPipeline"),
    (Scheduler.ddim, "DDIMPipeline", "DDPMPipeline"),
    (Scheduler.ddpm, "DDPMPipeline", "DDPMPipeline"),
    (Scheduler.dpm, "DDPMPipeline", "DDPMPipeline"),
    (Scheduler.heun, "SamplerLoop", "SamplerLoop"),
    (Scheduler.euler, "SamplerLoop", "SamplerLoop"),
    (Scheduler.pndm, "SamplerLoop", "SamplerLoop"),
])  # fmt: skip
def test_pipeline_that_runs_a_scheduler_rightly(name, from_ddim, from_ddpm, folder, ddpm_folder):
    for path, expected in ((folder, from_ddim), (ddpm_folder, from_ddpm)):
        pipe = load(str(path), scheduler=name, device="cpu")
        assert type(pipe).__name__ == expected
        if name != Scheduler.keep:
            assert type(pipe.scheduler).__name__ == CLASSES[name]
            assert pipe.scheduler.config.beta_schedule == "linear"


def test_dtype(folder):
    from stepmask.cli.common.arguments import DType

    assert load(str(folder), device="cpu", dtype=DType.bfloat16).unet.dtype == torch.bfloat16


def test_a_text_encoder_that_was_saved_in_half_precision(tmp_path):
    """transformers loads it as it was saved, and diffusers the denoiser in float32."""
    pytest.importorskip("transformers")
    pixart_pipeline().to(torch.float16).save_pretrained(tmp_path / "half")
    pipe = load(str(tmp_path / "half"), device="cpu")
    assert pipe.text_encoder.dtype == pipe.transformer.dtype == torch.float32
    assert len(pipe("a photo of a cat", num_inference_steps=2, output_type="pt").images) == 1


def test_a_folder_with_a_pipeline_of_ours(tmp_path):
    """diffusers alone would not know its class."""
    from stepmask_lab.reference.class_conditional_ldm import ClassConditionalLDMPipeline

    reference.load("ldm-cifar10").save_pretrained(tmp_path / "mine")
    assert isinstance(load(str(tmp_path / "mine"), device="cpu"), ClassConditionalLDMPipeline)
