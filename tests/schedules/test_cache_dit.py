"""Whole steps for cache-dit and from it: the package computes the same ones, and no file says more than it can."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal import check_refused
from stepmask import StepMask, StepMaskError, describe, schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.schedules import export_cache_dit, import_cache_dit
from tiny import ddim_pipeline, dit_pipeline

STEPS = [0, 1, 3, 6]
GRAPH = describe(dit_pipeline())


def written(tmp_path, **config):
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump({"cache_config": {"steps_computation_policy": "static", **config}}))
    return path


@pytest.mark.parametrize("forecast", [None, "linear"])
def test_the_package_computes_the_same_steps(forecast, tmp_path):
    cache_dit = pytest.importorskip("cache_dit", reason="needs cache-dit: pip install 'stepmask-lab[rivals]'")
    pipe, computed, calls = dit_pipeline(), [], []
    export_cache_dit(schedules.key_steps(pipe, 8, STEPS, forecast=forecast), tmp_path / "whole.yaml")
    denoiser = denoiser_of(pipe)
    denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
    denoiser.transformer_blocks[-1].register_forward_pre_hook(lambda *_: computed.append(len(calls) - 1))
    cache_dit.enable_cache(denoiser, **cache_dit.load_configs(str(tmp_path / "whole.yaml")))
    pipe(class_labels=[1], num_inference_steps=8, output_type="np")
    cache_dit.disable_cache(denoiser)
    assert computed == STEPS and len(calls) == 8


@pytest.mark.parametrize("pipeline", [dit_pipeline, ddim_pipeline])
@pytest.mark.parametrize("forecast", [None, "linear"])
def test_whole_steps_go_out_and_in(pipeline, forecast, tmp_path):
    pipe = pipeline()
    mask = schedules.key_steps(pipe, 8, STEPS, forecast=forecast)
    export_cache_dit(mask, tmp_path / "whole.yaml")
    back = import_cache_dit(tmp_path / "whole.yaml", pipe)
    assert np.array_equal(back.actions, mask.actions) and back.sites == mask.sites
    assert back.provenance["method"] == "cache-dit" and back.provenance["imported_from"] == "whole.yaml"


def test_masks_of_single_blocks_say_whole_steps_too(tmp_path):
    content = export_cache_dit(schedules.fora(GRAPH, range(5), 2), tmp_path / "whole.yaml")
    assert content["cache_config"]["steps_computation_mask"] == [1, 0, 1, 0, 1]
    assert "enable_taylorseer" not in content["cache_config"]


def test_flat_files_of_older_versions_are_read(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("steps_computation_mask: [1, 0]\nsteps_computation_policy: static\n")
    assert import_cache_dit(path, GRAPH, range(2)).compute.tolist() == [[True], [False]]


def some(table, **more):
    return StepMask(compute=table, sites=["a", "b"], timesteps=range(len(table)), **more)


CANNOT = {
    "parts of steps": (lambda: some([[1, 1], [1, 0]]), r"at 1 steps \(1\) this mask computes some"),
    "both": (lambda: some([[1, 1], [0, 0], [0, 0]], forecast=[[0, 0], [0, 0], [1, 1]]), "this mask holds at some"),
    "gains": (
        lambda: some([[1, 1], [0, 0]], forecast=[[0, 0], [1, 1]], gains=[[1, 1], [0.5, 1]]),
        "no learned factors",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_a_file_cannot_say_is_not_written(name, tmp_path):
    make, says = CANNOT[name]
    check_refused(says, export_cache_dit, make(), tmp_path / "whole.yaml")
    assert not list(tmp_path.iterdir())


REFUSED = {
    "dynamic": ({"steps_computation_policy": "dynamic"}, "set steps_computation_policy: static"),
    "by name": ({"steps_computation_mask": "medium"}, "names the policy 'medium'"),
    "truth": ({"steps_computation_mask": [True]}, "is a list of 1 and 0"),
    "nothing": ({"steps_computation_mask": []}, "is a list of 1 and 0"),
    "first": ({"steps_computation_mask": [0, 1]}, "reuses at the first step"),
    "second order": ({"enable_taylorseer": True, "taylorseer_order": 2}, "TaylorSeer of order 2"),
    "others": ({"enable_dmd": True}, "forecasts by dmd"),
    "another run": ({"steps_computation_mask": [1, 0, 1]}, "has 3 steps, the run has 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_mask_can_say_is_refused(name, tmp_path):
    config, says = REFUSED[name]
    path = written(tmp_path, **{"steps_computation_mask": [1, 0], **config})
    check_refused(says, import_cache_dit, path, GRAPH, range(2))


@pytest.mark.parametrize(
    ("text", "says"),
    [("cache_config: {max_warmup_steps: 8}", "no file of cache-dit with whole steps"), ("[1", "not valid YAML")],
)
def test_what_is_no_such_file_is_refused(text, says, tmp_path):
    (tmp_path / "whole.yaml").write_text(text)
    check_refused(says, import_cache_dit, tmp_path / "whole.yaml", GRAPH, range(2))


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="cache_onfig:[]{}&*!<>|-10\n '\"", max_size=60))
def test_any_text_is_at_worst_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "whole.yaml"
    path.write_text(f"steps_computation_policy: static\nsteps_computation_mask: {text}")
    try:
        assert import_cache_dit(path, GRAPH, range(2)).compute[0].all()
    except StepMaskError as error:
        assert str(error)
