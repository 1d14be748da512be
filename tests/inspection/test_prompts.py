"""Conditions from lists, files and the package."""

import inspect

import diffusers
import numpy as np
import pytest
from PIL import Image

from refusal import check_refused
from stepmask.inspection.prompts import (
    condition_arguments,
    default_prompts,
    is_per_image,
    one_for_each,
    read_conditions,
    without_clashes,
)

TAKES = {"prompt": ["self", "prompt"], "class_labels": ["self", "class_labels"]}


def test_the_package_brings_two_hundred_prompts():
    prompts = default_prompts()
    assert len(set(prompts)) == 200 and all(prompt == prompt.strip() for prompt in prompts)


def test_a_file_holds_one_per_line(tmp_path):
    file = tmp_path / "c.txt"
    file.write_text("a red fox\n\n  a ship at sea \n", encoding="utf-8")
    assert read_conditions(file) == ["a red fox", "a ship at sea"]
    file.write_text("3\n0\n")
    assert read_conditions(file) == [3, 0]
    file.write_text("\n")
    check_refused("holds no conditions: write one prompt", read_conditions, file)
    check_refused("cannot read conditions", read_conditions, tmp_path / "none.txt")
    check_refused("cannot read conditions", read_conditions, tmp_path)


def test_they_become_arguments_of_the_call(tmp_path):
    assert condition_arguments(TAKES["prompt"], None, "P") == {}
    assert condition_arguments(TAKES["prompt"], ["a", "b"], "P") == {"prompt": ["a", "b"]}
    assert condition_arguments(TAKES["class_labels"], (1, 2), "P") == {"class_labels": [1, 2]}
    (tmp_path / "c.txt").write_text("7\n")
    assert condition_arguments(TAKES["class_labels"], str(tmp_path / "c.txt"), "P") == {"class_labels": [7]}


@pytest.mark.parametrize(("takes", "conditions", "words"), [
    (TAKES["prompt"], [1, 2], "the call of P takes prompt, not class_labels"),
    (TAKES["class_labels"], ["a"], "the call of P takes class_labels, not prompt; 'a' is no class number"),
    (TAKES["class_labels"], ["3", "abc", "7"], "'abc' is no class number"),
    (TAKES["class_labels"], ["3"], "'3' is no class number"),
    (["self"], ["a"], "the call of P takes no conditions"),
    (TAKES["prompt"], ["a", 1], "got int, str"),
    (TAKES["prompt"], [], "got none"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(takes, conditions, words):
    check_refused(words, condition_arguments, takes, conditions, "P")


def test_embeddings_take_the_place_of_drawn_prompts():
    drawn = {"prompt": ["a"], "batch_size": 1}
    assert without_clashes(drawn, {"prompt_embeds": 1}) == {"batch_size": 1}
    assert without_clashes(drawn, {"batch_size": 2}) == {"prompt": ["a"]}
    assert without_clashes(drawn, {}) == drawn


def test_lists_of_a_run_are_not_dealt_out_to_images():
    assert (
        is_per_image("prompt", ["a", "b"]) and is_per_image("class_labels", [1]) and is_per_image("latents", np.ones(2))
    )
    assert not is_per_image("prompt", "a red fox") and not is_per_image("guidance_scale", np.float32(2))
    for name in ("sigmas", "timesteps", "ip_adapter_image_embeds", "control_guidance_end", "skip_guidance_layers",
                 "history_sizes", "pyramid_num_inference_steps_list"):  # fmt: skip
        assert not is_per_image(name, [1, 2])
    assert is_per_image("control_image", np.ones((2, 3, 4, 4))), "one for each image"
    assert not is_per_image("control_image", ["a", "b"]), "one for each ControlNet"
    frames = [np.ones((3, 4, 4))] * 2
    assert not is_per_image("video", frames) and not is_per_image("conditioning_frames", frames)
    assert is_per_image("video", [frames, frames]), "one for each video"


@pytest.mark.parametrize("pipeline", ["StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline"])
def test_sizes_of_sdxl_belong_to_the_run(pipeline):
    """Two numbers each, in all arguments of that kind that the pipeline's call has."""
    takes = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    sizes = [name for name in takes if name.endswith("_size") or "crops" in name]
    assert {"original_size", "crops_coords_top_left", "negative_target_size"} <= set(sizes)
    assert not any(is_per_image(name, (1024, 1024)) for name in sizes)


def test_what_is_said_once_holds_for_each():
    picture = Image.new("RGB", (4, 4))
    given = {"prompt": "a cat", "prompt_2": "red", "negative_prompt": "dog", "image": picture, "scale": 2}
    once = one_for_each(given, 2, makes_videos=False)
    assert once == {**given, "prompt": ["a cat"] * 2, "prompt_2": ["red"] * 2}
    assert one_for_each(given, 3, makes_videos=True)["image"] == [picture] * 3
    assert one_for_each(given, 1, makes_videos=True) == given
    listed = {"prompt": ["a", "b"], "image": [picture, picture]}
    assert one_for_each(listed, 2, makes_videos=True) == listed
