"""What the pipeline is called with beside steps and seeds: --call, images and videos from the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from small import ltx_pipeline
from stepmask import StepMaskError, schedules
from stepmask.cli.common.call_arguments import call_kwargs
from tiny import dit_pipeline

SIZE = ["--call", "height=64", "--call", "width=32", "--call", "num-frames=9"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def video_folder(saved):
    return saved(ltx_pipeline(), "ltx")


@pytest.fixture(scope="module")
def image_folder(saved):
    return saved(ltx_pipeline(from_image=True), "ltx-from-image")


@pytest.mark.parametrize(("text", "value"), [
    ("height=512", 512),
    ("strength=0.6", 0.6),
    ("clean-caption=false", False),
    ("output=True", True),
    ("negative_prompt=null", None),
    ("negative_prompt=None", None),
    ("negative_prompt=blurry, low = bad", "blurry, low = bad"),
    ('prompt="2"', "2"),
    ("sizes=[1, 2]", [1, 2]),
    ("scale=NaN", "NaN"),
    ("prompt=", ""),
])  # fmt: skip
def test_values(text, value):
    assert list(call_kwargs(None, [text]).values()) == [value]


def test_names_are_those_of_python():
    assert call_kwargs(2.5, ["num-frames=9"]) == {"guidance_scale": 2.5, "num_frames": 9}


def test_a_file_of_an_image_is_read(photo):
    image = call_kwargs(None, [f"image={photo}"])["image"]
    assert image.mode == "RGB" and image.size == (60, 40)


@pytest.mark.parametrize(("call", "says"), [
    ("height", "--call takes NAME=VALUE, height=512 for example, got 'height'"),
    ("two words=1", "--call takes NAME=VALUE"),
    ("guidance_scale=2", "guidance_scale is given twice"),
    ("image=nowhere.png", "cannot read the image nowhere.png: there is no such file"),
    ("image=text.png", "text.png: it holds no image"),
])  # fmt: skip
def test_what_makes_no_sense(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(StepMaskError, match=says):
        call_kwargs(3.0, [call])


def test_an_argument_that_the_call_does_not_take(run, folder, mask_file, tmp_path):
    for verb in (["describe", folder], ["learn", folder], ["evaluate", folder, "--mask", mask_file]):
        assert "the call of DDIMPipeline takes no heigth" in run(*verb, "--call", "heigth=8", code=2).stderr


def test_all_that_a_command_measures_is_of_that_size(run, video_folder):
    small = run("describe", video_folder, *SIZE).stdout
    assert small != run("describe", video_folder, *SIZE[:4], "--call", "num-frames=17").stdout


def test_guidance_that_is_given_wins_over_that_of_the_mask(run, dit_folder, tmp_path):
    pipe, path = dit_pipeline(), tmp_path / "mask.json"
    mask = schedules.fora(pipe, 4, 2)
    replace(mask, provenance={**mask.provenance, "guidance_scale": 4.0}).save(path)
    shown = run("show", path, "--model", dit_folder, "--call", "guidance_scale=1").stdout
    assert "% of the full run's MACs after elimination" in shown


def test_videos_are_written_as_animations(run, video_folder, tmp_path):
    schedules.fora(ltx_pipeline(), 4, 2).save(tmp_path / "mask.json")
    run("sample", video_folder, *SIZE, "--mask", tmp_path / "mask.json", "-n", 2, "-o", tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made" / "full").iterdir()) == ["010000.webp", "010001.webp"]
    with Image.open(tmp_path / "made" / "masked" / "010001.webp") as video:
        assert (video.n_frames, video.size) == (9, (32, 64))
    with Image.open(tmp_path / "made" / "side_by_side.webp") as both:
        assert both.n_frames == 9 and both.size[0] > 2 * 64


@pytest.mark.slow
def test_a_video_from_an_image(run, image_folder, quick, photo, tmp_path):
    """One image begins every video, and prompts are drawn beside it."""
    mask, options = tmp_path / "mask.json", [*SIZE, "--call", f"image={photo}"]
    run("learn", image_folder, *options, *quick, "-o", mask)
    run("evaluate", image_folder, *options, "--mask", mask, "-n", 2, "--no-speed", "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["psnr"]["min"] > 20 and found["pipeline"] == "LTXImageToVideoPipeline"


def test_one_prompt_for_all(run, video_folder, tmp_path):
    schedules.fora(ltx_pipeline(), 4, 2).save(tmp_path / "mask.json")
    options = [*SIZE, "--mask", tmp_path / "mask.json", "-n", 2, "--no-compare"]
    run("sample", video_folder, *options, "--call", "prompt=a red cat", "-o", tmp_path / "call")
    (tmp_path / "prompts.txt").write_text("a red cat\n")
    run("sample", video_folder, *options, "--conditions", tmp_path / "prompts.txt", "-o", tmp_path / "conditions")
    for name in ("010000.webp", "010001.webp"):
        made = [(tmp_path / folder / "masked" / name).read_bytes() for folder in ("call", "conditions")]
        assert made[0] == made[1]
