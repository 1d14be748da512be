"""Reference models: ordinary pipelines, loaded by name."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMPipeline

from stepmask import StepMaskError, describe
from stepmask.inspection.registry import denoiser_of
from stepmask_lab import reference
from stepmask_lab.reference import configurations
from tiny import ddim_pipeline, generator, quiet

KINDS = {
    "ddpm-cifar10": ("DDIMPipeline", 8, {"batch_size": 1}),
    "dit-cifar10": ("DiTPipeline", 16, {"class_labels": [3]}),
    "ldm-cifar10": ("ClassConditionalLDMPipeline", 12, {"class_labels": [3]}),
    "pixart-cifar10": ("SmallPixArtPipeline", 12, {"prompt": "a photo of a cat"}),
    "pixart-emoji": ("EmojiPipeline", 16, {"prompt": "a red apple, flat style"}),
}
TEXT = ("pixart-cifar10", "pixart-emoji")
MISSING = [name for name in KINDS if name not in reference.names()]
shipped = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.skip(reason="no weights here")] * (n in MISSING)) for n in KINDS]
)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of reference models of our own: one tiny pipeline."""
    monkeypatch.setattr(reference, "_WEIGHTS", tmp_path)
    ddim_pipeline().save_pretrained(tmp_path / "tiny-one")
    (tmp_path / "tiny-one" / "training.json").write_text(json.dumps({"images_seen": 64}))
    (tmp_path / "half-copied").mkdir()
    return tmp_path


def test_names_and_loading(weights):
    assert reference.names() == ["tiny-one"]
    assert reference.folder("tiny-one") == weights / "tiny-one"
    pipe = reference.load("tiny-one")
    assert isinstance(pipe, DDIMPipeline) and pipe.unet.dtype == torch.float32
    assert reference.load("tiny-one", torch.bfloat16).unet.dtype == torch.bfloat16
    assert reference.training_record("tiny-one") == {"images_seen": 64}


@pytest.mark.parametrize("name", ["ddpm", "half-copied", "", ".."])
@pytest.mark.parametrize("use", [reference.load, reference.folder, reference.training_record])
def test_unknown_names(weights, use, name):
    with pytest.raises(StepMaskError, match=r"no reference model .*; there are tiny-one"):
        use(name)


def test_loading_leaves_the_progress_bars_of_diffusers_as_they_were(weights):
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    try:
        for switch in (logging.enable_progress_bar, logging.disable_progress_bar):
            switch()
            before = logging.is_progress_bar_enabled()
            reference.load("tiny-one")
            assert logging.is_progress_bar_enabled() == before
    finally:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()


@shipped
def test_a_shipped_model_is_an_ordinary_pipeline(name):
    if name in TEXT:
        pytest.importorskip("transformers")
    kind, limit_mib, arguments = KINDS[name]
    files = [path for path in reference.folder(name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= limit_mib * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    pipe = quiet(reference.load(name))
    assert type(pipe).__name__ == kind
    models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert all(p.dtype == torch.float32 for model in models for p in model.parameters())
    images = pipe(**arguments, generator=generator(), num_inference_steps=2, output_type="pt").images
    size = 64 if name == "pixart-emoji" else 32
    assert images.shape == (1, 3, size, size) and images.isfinite().all() and images.std() > 0.01
    assert reference.training_record(name)["images_seen"] > 0


def test_without_transformers(tmp_path, monkeypatch):
    index = {"_class_name": "SmallPixArtPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr(reference, "_WEIGHTS", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StepMaskError, match=r"'reader' reads text and needs transformers: .*stepmask\[text\]"):
        reference.load("reader")


BUILDERS = {**configurations.BUILDERS, "pixart-emoji": configurations.pixart_emoji}


@pytest.mark.parametrize("name", BUILDERS)
def test_configurations_are_supported_and_small(name):
    if name in TEXT:
        pytest.importorskip("transformers")
    pipe = BUILDERS[name]()
    assert len(describe(pipe)) > 10
    models = [model for model in pipe.components.values() if isinstance(model, torch.nn.Module)]
    parameters = sum(p.numel() for model in models for p in model.parameters())
    assert 2 * parameters <= KINDS[name][1] * 2**20, "in float16"
    if name in reference.names():
        made, loaded = (denoiser_of(each).state_dict() for each in (pipe, reference.load(name)))
        assert made.keys() == loaded.keys()


def test_stepmask_alone_imports_no_transformers():
    heavy = "'transformers' in sys.modules or 'torch' in sys.modules"
    code = f"import sys, stepmask_lab.reference; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
