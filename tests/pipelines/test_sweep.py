"""The sweep over all of diffusers: a few classes here, all of them where minutes do not matter, and its page."""

from pathlib import Path

import diffusers
import pytest
from sweep import Bench, page, pipelines, read, schedulers, try_pipeline, try_scheduler

PAGE = Path(__file__).parents[2] / "docs/reference/sweep.md"
WORDS = ("bitwise", "refused", "warned", "left out")


@pytest.fixture(scope="module")
def bench():
    return Bench()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("name", "found"), [
    pytest.param("WanImageToVideoPipeline", "bitwise", marks=SLOW),
    ("StableDiffusionPanoramaPipeline", "warned"),
    ("StableDiffusionSAGPipeline", "refused"), ("KolorsPipeline", "left out"), ("IFPipeline", "bitwise"),
    ("KandinskyV22CombinedPipeline", "bitwise"), ("StableCascadePriorPipeline", "bitwise"),
    pytest.param("FluxInpaintPipeline", "bitwise", marks=SLOW),
    pytest.param("HunyuanDiTPipeline", "bitwise", marks=SLOW),
    pytest.param("VQDiffusionPipeline", "left out", marks=SLOW),
])  # fmt: skip
def test_a_pipeline(name, found, bench):
    outcome = try_pipeline(pipelines()[name], bench)
    assert outcome.found == found and bool(outcome.why) == (found != "bitwise")


@pytest.mark.parametrize(("name", "found"), [
    ("LCMScheduler", "bitwise"), ("KarrasVeScheduler", "refused"), ("AmusedScheduler", "left out"),
])  # fmt: skip
def test_a_scheduler(name, found, bench):
    assert try_scheduler(schedulers()[name], bench).found == found


@pytest.mark.slow
def test_all(bench):
    found = [try_pipeline(kind, bench) for kind in pipelines().values()]
    found += [try_scheduler(kind, bench) for kind in schedulers().values()]
    assert [outcome for outcome in found if outcome.found not in WORDS] == []
    assert sum(outcome.found == "bitwise" for outcome in found) > 200


def test_a_page_is_read_as_it_was_written(tmp_path):
    found = read(PAGE)
    of_schedulers = [found[name] for name in schedulers() if name in found]
    of_pipelines = [found[name] for name in pipelines() if name in found]
    (tmp_path / "page.md").write_text(page(of_pipelines, of_schedulers))
    assert read(tmp_path / "page.md") == found and len(found) > 300


def test_the_page_has_every_class_and_no_fault():
    text = PAGE.read_text()
    if f"{diffusers.__version__};" not in text:
        pytest.skip("the page was made with another diffusers")
    for name in [*pipelines(), *schedulers()]:
        assert f"| {name} |" in text
    assert "differs:" not in text and "breaks:" not in text and "Not tried" not in text
