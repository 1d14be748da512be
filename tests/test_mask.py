"""StepMask: values, files, checks."""

import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, PNDMScheduler
from diffusers import DPMSolverMultistepScheduler as DPMSolver
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatch
from hypothesis import given
from hypothesis import strategies as st

from refusal import check_refused
from stepmask import BlockGraph, MaskFileError, MaskMismatchError, Site, StepMask, StepMaskError, make_plan
from stepmask.mask import Action, scheduler_identity
from stepmask.mask_file import MAX_CELLS
from stepmask.mask_tables import MAX_GAIN

STORED = [Path(__file__).parent / "data" / f"mask_format_{version}.json" for version in (1, 2, 3, 4, 5)]
SITES = tuple(Site(f"blocks.{i}", "resnet", i) for i in range(3))
GRAPH = BlockGraph.chain(SITES)
FORECAST = {"forecast": [[0, 0, 0], [0, 1, 0], [1, 0, 0]]}


def small(**changes) -> StepMask:
    values = {
        "compute": [[1, 1, 1], [1, 0, 1], [0, 1, 0]], "sites": GRAPH.names, "timesteps": [900, 500, 100.5],
        "graph": GRAPH.fingerprint, "scores": np.float32([[1, 1, 1], [0.9, 0.1, 1 / 3], [0.2, 0.7, 0.0]]),
        "provenance": {"method": "test", "num_inference_steps": 3},
    }  # fmt: skip
    return StepMask(**{**values, **changes})


def scheduler(rows: int, class_=DDIMScheduler, **config):
    made = class_(**config)
    made.set_timesteps(rows)
    return made


def for_run(run) -> StepMask:
    rows = len(run.timesteps)
    return StepMask(
        compute=np.ones((rows, 3), bool), sites=GRAPH.names, timesteps=run.timesteps,
        scheduler=scheduler_identity(run), graph=GRAPH.fingerprint, provenance={"num_inference_steps": rows},
    )  # fmt: skip


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def masks(draw) -> StepMask:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    known = draw(st.sampled_from([(Action.hold, Action.compute), tuple(Action)]))
    row = st.lists(st.sampled_from(known), min_size=columns, max_size=columns)
    actions = np.array([[Action.compute] * columns, *draw(st.lists(row, min_size=rows - 1, max_size=rows - 1))])
    score = st.lists(st.floats(0, 1, width=32), min_size=columns, max_size=columns)
    name = st.text(min_size=1) | st.sampled_from(["blocks", "blocks.0", "blocks.0.attn", "blocks.1"])
    names = draw(st.lists(name, min_size=columns, max_size=columns, unique=True))
    number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 1000)
    sizes = draw(st.dictionaries(st.sampled_from(names), st.tuples(st.integers(2, 4), st.integers(1, 3))))
    weight = st.floats(-MAX_GAIN, MAX_GAIN)
    weights = {name: [[[draw(weight)] * width] * count] * rows for name, (count, width) in sizes.items()}
    return StepMask(
        compute=actions == Action.compute, forecast=actions == Action.linear, sites=names, weights=weights,
        timesteps=draw(st.lists(number, min_size=rows, max_size=rows)),
        scheduler=draw(st.none() | st.fixed_dictionaries({"class": st.text(), "config": st.just({"a": [1, "x"]})})),
        graph=draw(st.none() | st.text()), scores=draw(st.none() | st.lists(score, min_size=rows, max_size=rows)),
        provenance=draw(st.dictionaries(st.text(), json_values, max_size=3)),
    )  # fmt: skip


# --- values


def test_tables_are_read_only_copies():
    cells, forecast = np.ones((2, 3), bool), np.zeros((2, 3), bool)
    cells[1, 1] = False
    mask = small(compute=cells, forecast=forecast, timesteps=[2, 1], scores=np.ones((2, 3)))
    cells[1] = False
    forecast[1] = True
    assert mask.compute.sum() == 5 and not mask.forecast.any()
    for array in (mask.compute, mask.forecast, mask.scores):
        with pytest.raises(ValueError, match="read-only"):
            array[1, 1] = 0
    with pytest.raises(AttributeError):
        mask.compute = cells


@pytest.mark.parametrize("change", [
    {"compute": [[1, 1, 1], [1, 1, 1], [0, 1, 0]]},
    {"forecast": [[0, 0, 0], [0, 1, 0], [0, 0, 0]]},
    {"sites": ["blocks.0", "blocks.1", "other"]},
    {"timesteps": [900, 500, 100]},
    {"scheduler": {"class": "A", "config": {}}},
    {"graph": None},
    {"scores": None},
    {"scores": np.full((3, 3), 0.5)},
    {"provenance": {}},
    {"forecast": [[0, 0, 0], [0, 1, 0], [0, 0, 0]], "weights": {"blocks.1": np.ones((3, 3, 2))}},
], ids=lambda change: next(iter(change)))  # fmt: skip
def test_equality_sees_every_field(change):
    assert small() == small() == small(sites=SITES) and small() != "mask"
    assert small() != small(**change) and small(**change) != small()
    with pytest.raises(TypeError):
        hash(small())


@pytest.mark.parametrize(("change", "message"), [
    ({"compute": [1, 1, 1]}, "steps x sites"),
    ({"compute": np.ones((0, 3))}, "steps x sites"),
    ({"compute": [[1, 1, 1], [1, 0.5, 1], [0, 1, 0]]}, "round scores first"),
    ({"compute": [[1, 1, 1], [1, np.nan, 1], [0, 1, 0]]}, "round scores first"),
    ({"compute": [[1, 0, 1], [1, 0, 1], [0, 1, 0]]}, "row 0"),
    ({"forecast": [[0, 0, 0], [1, 0, 0], [0, 0, 0]]}, "computes or forecasts, not both"),
    ({"forecast": [[1, 0, 0], [0, 0, 0], [0, 0, 0]]}, "computes or forecasts, not both"),
    ({"forecast": np.zeros((2, 3))}, r"forecast must have the mask's shape \(3, 3\), got \(2, 3\)"),
    ({"forecast": [[0, 0, 0], [0, 2, 0], [0, 0, 0]]}, "a forecast table's cells are 1 .* or 0"),
    ({"sites": ["a", "b"]}, "3 columns needs 3 site names, got 2"),
    ({"sites": ["a", "b", 3]}, "site names"),
    ({"sites": ["a", "b", "a"]}, "given twice: a"),
    ({"timesteps": [2, 1]}, "3 rows needs 3 timesteps, got 2"),
    ({"timesteps": [3, float("nan"), 1]}, "finite"),
    ({"timesteps": [float("inf"), 2, 1]}, "finite"),
    ({"scores": np.ones((2, 3))}, "shape"),
    ({"scores": np.full((3, 3), 1.01)}, r"\[0, 1\]"),
    ({"scores": np.full((3, 3), -0.01)}, r"\[0, 1\]"),
    ({"scores": np.full((3, 3), np.nan)}, r"\[0, 1\]"),
    ({"gains": [[1, 1]]}, "shape"),
    *(({"gains": np.full((3, 3), value), **FORECAST}, "between") for value in (1e3, np.nan)),
    ({"channel_gains": [1, 2], **FORECAST}, "map names of sites"),
    ({"channel_gains": {"elsewhere": [1, 2]}, **FORECAST}, "no site of the mask"),
    *(({"channel_gains": {"blocks.0": wrong}, **FORECAST}, "one number for") for wrong in ([], [[1, 2]])),
    *(({"channel_gains": {"blocks.0": wrong}, **FORECAST}, "between") for wrong in ([1, np.nan], [1e3])),
    ({"weights": [1, 2], **FORECAST}, "map names of sites to a table of rows x terms x channels"),
    ({"weights": {"elsewhere": np.ones((3, 2, 1))}, **FORECAST}, "no site of the mask"),
    *(({"weights": {"blocks.0": np.ones(wrong)}, **FORECAST}, r"\(rows, terms, channels\) with 3 rows and 2 to 4 terms")
      for wrong in ((), (3, 2), (2, 2, 1), (3, 1, 1), (3, 5, 1), (3, 2, 0))),
    *(({"weights": {"blocks.0": np.full((3, 2, 1), wrong)}, **FORECAST}, "between") for wrong in (np.nan, 1e3)),
])  # fmt: skip
def test_impossible_masks_are_refused(change, message):
    check_refused(message, small, **change)


def test_actions_say_compute_hold_and_forecast():
    mask = small(forecast=[[0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert mask.actions.tolist() == [[1, 1, 1], [1, 2, 1], [0, 1, 2]] and not mask.is_binary
    assert repr(mask) == "StepMask(3 steps x 3 sites, 66.7% of cells compute, 22.2% forecast)"
    assert repr(small()) == "StepMask(3 steps x 3 sites, 66.7% of cells compute)"
    assert small().is_binary and small().actions.tolist() == small().compute.astype(int).tolist()
    assert small(scores=None).with_actions(mask.actions) == small(forecast=mask.forecast, scores=None)
    assert mask.with_actions(small().actions) == small(scores=None), "scores were those of another table"


# --- files


@given(mask=masks())
def test_round_trip(tmp_path_factory, mask):
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    mask.save(path)
    assert StepMask.load(path) == mask


def test_a_stored_file_of_format_1_loads_for_ever():
    mask = StepMask.load(STORED[0])
    assert mask.compute.astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]]
    assert mask.sites == ("down_blocks.0.resnets.0", "down_blocks.0.downsamplers.0", "mid_block.attentions.0")
    assert mask.timesteps == (751, 501, 250.5, 1) and mask.graph == "0123456789abcdef"
    config = {"num_train_timesteps": 1000, "beta_start": 0.0001, "lambda_min_clipped": "-inf", "trained_betas": None}
    assert mask.scheduler == {"class": "DPMSolverMultistepScheduler", "config": config}
    assert mask.scores.dtype == np.float32 and mask.scores[1].tolist() == np.float32([0.75, 0.1, 1]).tolist()
    assert mask.provenance == {"method": "learned", "num_inference_steps": 4, "target_macs": 0.6}


def test_a_stored_file_of_format_2_loads_for_ever():
    mask = StepMask.load(STORED[1])
    assert mask.actions.tolist() == [[1, 1], [1, 0], [2, 1], [2, 2]]
    assert np.array_equal(mask.compute, mask.actions == 1) and np.array_equal(mask.forecast, mask.actions == 2)
    assert mask.sites == ("transformer_blocks.0.attn1", "transformer_blocks.0.ff")
    assert mask.timesteps == (750, 500, 250, 0) and mask.graph == "fedcba9876543210"
    assert mask.scheduler == {"class": "DDIMScheduler", "config": {"num_train_timesteps": 1000}}
    assert mask.scores is None and mask.provenance == {"method": "fora", "forecast": "linear"}


def test_stored_files_of_formats_3_and_4_load_for_ever():
    three, four = map(StepMask.load, STORED[2:4])
    assert three.actions.tolist() == [[1, 1], [1, 1], [2, 1], [2, 2]] and three.channel_gains is None
    assert three.gains.tolist() == four.gains.tolist() == [[1, 1], [1, 1], [1.25, 1], [-0.125, 1]]
    found = {site: vector.tolist() for site, vector in four.channel_gains.items()}
    assert found == {"transformer_blocks.0.attn1": [1.5, 0.25, 1], "transformer_blocks.0.ff": [-2, 1.125, 0.5]}
    assert not any(array.flags.writeable for array in (three.gains, *four.channel_gains.values()))


def test_a_stored_file_of_format_5_loads_for_ever():
    mask = StepMask.load(STORED[4])
    assert mask.sites[2:] == tuple(f"transformer_blocks{more}" for more in (".0", ".1.ff", ".1", ""))
    assert ["".join(map(str, row)) for row in mask.actions] == [
        "1" * 6
    ] * 2 + "211111 201211 111112 000021 111112".split()
    assert mask.gains[2:4, 0].tolist() == [1.25, -0.125] and (np.delete(mask.gains, 0, axis=1) == 1).all()
    assert {site: gains.tolist() for site, gains in mask.channel_gains.items()} == {mask.sites[3]: [1.5, 0.25, 1]}
    block, stack = (mask.weights[name] for name in mask.sites[4:])
    assert block.shape == (7, 2, 3) and block[5].tolist() == [[1, 1, 1], [0.5, -1.25, 2]]
    assert stack.shape == (7, 3, 1) and stack[[4, 6], :, 0].tolist() == [[1, 1.0625, -0.375], [1, 0.75, 0.125]]
    assert (np.delete(block, 5, axis=0) == 1).all() and (np.delete(stack, [4, 6], axis=0)[..., 0] == [1, 1, 0]).all()
    assert not block.flags.writeable and len(mask.weights) == 2


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_saving_the_stored_file_again_changes_no_byte(tmp_path, stored):
    StepMask.load(stored).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == stored.read_text()


def test_only_forecasts_need_format_2(tmp_path):
    for mask, version in ((small(), 1), (small(forecast=[[0, 0, 0], [0, 1, 0], [0, 0, 0]]), 2)):
        mask.save(tmp_path / "mask.json")
        content = json.loads((tmp_path / "mask.json").read_text())
        assert content["format_version"] == version and content["rows"][1] == ("101" if version == 1 else "1l1")


def test_gains_are_those_of_forecasts_alone(tmp_path):
    forecast = [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    mask = small(forecast=forecast, gains=np.full((3, 3), 1.23456789))
    assert mask.gains.tolist() == [[1, 1, 1], [1, 1.2346, 1], [1.2346, 1, 1]], "to four decimals"
    mask.save(tmp_path / "mask.json")
    content = json.loads((tmp_path / "mask.json").read_text())
    assert content["format_version"] == 3 and content["gains"] == [[], [1.2346], [1.2346]]
    assert StepMask.load(tmp_path / "mask.json") == mask
    for gains in (np.ones((3, 3)), [[5, 5, 5], [5, 1, 5], [1, 5, 5]]):
        plain = small(forecast=forecast, gains=gains)
        assert plain.gains is None and plain.to_dict()["format_version"] == 2 and "gains" not in plain.to_dict()
    assert mask != plain and plain != mask and small(gains=np.zeros((3, 3))).gains is None
    assert mask.with_actions(mask.actions).gains is None, "another table, other gains"


def test_gains_go_with_their_rows():
    forecast = np.array([[0, 0], [0, 0], [1, 1], [0, 0], [1, 1], [0, 0]], dtype=bool)
    gains = np.where(forecast, np.arange(12).reshape(6, 2) / 4, 1)
    mask = StepMask(compute=~forecast, forecast=forecast, gains=gains, sites=("a", "b"), timesteps=[5, 4, 3, 2, 1, 0])
    assert mask.resample(mask.timesteps).gains.tolist() == mask.gains.tolist()
    wide = mask.resample([5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5, 0])
    assert wide.gains is not None and set(map(tuple, wide.gains)) <= set(map(tuple, mask.gains))
    graph = BlockGraph.branches([Site("a", "mlp"), Site("between", "mlp"), Site("b", "mlp")])
    plan = make_plan(mask, graph)
    assert plan.gains[:, [0, 2]].tolist() == mask.gains.tolist() and (plan.gains[:, 1] == 1).all()
    assert plan.from_row(2).gains[:, [0, 2]].tolist() == [[1, 1], *mask.gains[3:].tolist()]


def test_gains_of_channels_are_those_of_sites_that_forecast(tmp_path):
    forecast = [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    first, second, third = GRAPH.names
    given = {first: [1.23456, 2], second: [1, 1, 1], third: [3.0]}
    mask = small(forecast=forecast, channel_gains=given)
    assert {site: vector.tolist() for site, vector in mask.channel_gains.items()} == {first: [1.235, 2]}
    mask.save(tmp_path / "mask.json")
    content = json.loads((tmp_path / "mask.json").read_text())
    assert content["format_version"] == 4 and content["channel_gains"] == {first: [1.235, 2]}
    assert content["gains"] == [[], [1.0], [1.0]] and mask.gains is None
    assert StepMask.load(tmp_path / "mask.json") == mask == pickle.loads(pickle.dumps(mask))
    plain = small(forecast=forecast, channel_gains={second: [1, 1]})
    assert plain.channel_gains is None and plain.to_dict()["format_version"] == 2
    assert mask != plain and plain != mask and mask != small(forecast=forecast, channel_gains={first: [1.235, 3]})
    assert mask.with_actions(mask.actions).channel_gains is None, "another table, other gains"


def test_gains_of_channels_go_with_their_site():
    forecast = np.array([[0, 0], [0, 0], [1, 1], [0, 0], [1, 0], [0, 0]], dtype=bool)
    given = {"a": [0.5, 2], "b": [3.0]}
    mask = StepMask(
        compute=~forecast, forecast=forecast, channel_gains=given, sites=("a", "b"), timesteps=[5, 4, 3, 2, 1, 0]
    )
    assert mask.resample(mask.timesteps).channel_gains.keys() == given.keys()
    plan = make_plan(mask, BlockGraph.branches([Site("a", "mlp"), Site("between", "mlp"), Site("b", "mlp")]))
    assert {site: vector.tolist() for site, vector in plan.channel_gains.items()} == {0: [0.5, 2], 2: [3]}
    assert plan.from_row(3).channel_gains.keys() == {0}, "the other forecasts no more"


def test_weights_are_those_of_sites_that_forecast(tmp_path):
    forecast = [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    first, second, third = GRAPH.names
    given = {first: np.full((3, 3, 2), 0.123456), third: np.ones((3, 2, 1))}
    mask = small(
        forecast=forecast, weights=given, gains=np.full((3, 3), 1.5), channel_gains={first: [2.0], second: [3.0]}
    )
    assert mask.weights.keys() == {first} and mask.weights[first][2].tolist() == [[0.1235] * 2] * 3, "to four decimals"
    assert (mask.weights[first][:2] == [[1], [1], [0]]).all(), "elsewhere those of a line"
    assert mask.gains.tolist() == [[1, 1, 1], [1, 1.5, 1], [1, 1, 1]], "and no gains beside them"
    assert mask.channel_gains.keys() == {second}
    mask.save(tmp_path / "mask.json")
    content = json.loads((tmp_path / "mask.json").read_text())
    assert content["format_version"] == 5 and content["weights"] == {first: [[[0.1235] * 2] * 3]}
    assert StepMask.load(tmp_path / "mask.json") == mask == pickle.loads(pickle.dumps(mask))
    assert mask != small(forecast=forecast, gains=mask.gains, channel_gains=mask.channel_gains)
    assert mask.with_actions(mask.actions).weights is None, "another table, other weights"
    assert mask.with_actions(mask.actions, **mask.forecasting()) == replace(mask, scores=None)
    assert small(weights={first: np.ones((3, 2, 1))}).weights is None and small(weights={}).weights is None


def test_only_sites_that_nest_or_have_weights_need_format_5():
    """What says nothing of a format is null in it."""
    nested = small(sites=["blocks.0", "blocks", "block"]).to_dict()
    assert nested["format_version"] == 5
    assert nested["gains"] is nested["channel_gains"] is nested["weights"] is None
    assert StepMask.from_dict(nested).to_dict() == nested
    assert small(sites=["blocks.0", "blocks.01", "block"]).to_dict()["format_version"] == 1


def test_weights_go_with_their_rows():
    forecast = np.array([[0, 0], [0, 0], [1, 1], [0, 0], [1, 0], [0, 0]], dtype=bool)
    weights = {"a": np.arange(36).reshape(6, 3, 2) / 4, "b": np.full((6, 4, 1), 0.5)}
    mask = StepMask(
        compute=~forecast, forecast=forecast, weights=weights, sites=("a", "b"), timesteps=[5, 4, 3, 2, 1, 0]
    )
    same = mask.resample(mask.timesteps)
    assert {site: table.tolist() for site, table in same.weights.items()} == {
        site: table.tolist() for site, table in mask.weights.items()
    }
    wide = mask.resample([5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5, 0])
    for site, table in wide.weights.items():
        assert table.shape == (11, *mask.weights[site].shape[1:])
        rows = [row.tolist() for row in mask.weights[site]]
        assert all(row.tolist() in rows for row in table) and wide.forecast[:, wide.sites.index(site)].any()
    plan = make_plan(mask, BlockGraph.branches([Site("a", "mlp"), Site("between", "mlp"), Site("b", "mlp")]))
    assert plan.weights.keys() == {0, 2} and plan.weights[0].tolist() == mask.weights["a"].tolist()
    late = plan.from_row(3)
    assert late.weights.keys() == {0}, "the other forecasts no more"
    assert late.weights[0].tolist() == mask.weights["a"][3:].tolist()


FF = "transformer_blocks.0.ff"
EDITED_GAINS = [(3, "channel_gains", wrong) for wrong in (None, 3, [], {"x": [1.0]}, {FF: ["x"]}, {FF: 1})]
ROWS = [[[1.0]], [[1.0], [1.0]], [["x"], [1, 1]], [[1e9], [1, 1]]]
BLOCK, STACK = "transformer_blocks.1", "transformer_blocks"
TABLES = (
    {"x": [[[1.0], [1.0]]]},
    {FF: [[[1.0], [1.0]]]},
    {STACK: [[[1.0], [1.0]]]},
    {BLOCK: []},
    {BLOCK: 1},
    {BLOCK: None},
)
TABLES += tuple(
    {BLOCK: [table]} for table in (1, [1.0], [[]], [[1.0]], [[1.0]] * 5, [[1.0], [1.0, 2.0]], [["x"], [1.0]])
)
TABLES += tuple({BLOCK: [[[1.0], [wrong]]]} for wrong in (1e9, -1e9, 10**400, float("nan"), float("inf"), None))
EDITED_GAINS += [(4, "weights", wrong) for wrong in (3, [], *TABLES)]
EDITED_GAINS += [(4, "channel_gains", wrong) for wrong in (3, [], {"x": [1.0]})]
EDITED_GAINS += [(2, "gains", wrong) for wrong in (None, 3, [], *([[], [], *rows] for rows in ROWS))]


@pytest.mark.parametrize(("stored", "key", "wrong"), EDITED_GAINS)
def test_edited_gains_are_refused_in_words(tmp_path, stored, key, wrong):
    with pytest.raises(MaskFileError, match=r"mask .*mask\.json: it cannot be used"):
        StepMask.load(edited(tmp_path, STORED[stored], **{key: wrong}))
    check_refused(
        f"'{key}' is missing", StepMask.load, edited(tmp_path, STORED[stored], **{key: ...}), error=MaskFileError
    )


def test_rows_are_strings_one_a_line(tmp_path):
    small().save(tmp_path / "mask.json")
    lines = (tmp_path / "mask.json").read_text().splitlines()
    assert ['    "111",', '    "101",', '    "010"'] == [line for line in lines if set(line) <= set(' ",01')]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("class_", [DDIMScheduler, DDPMScheduler, DPMSolver, FlowMatch])
def test_identity_of_a_scheduler_survives_the_file(tmp_path, class_):
    run = scheduler(5, class_)
    for_run(run).save(tmp_path / "mask.json")
    loaded = StepMask.load(tmp_path / "mask.json")
    assert loaded.scheduler["class"] == class_.__name__ and loaded.scheduler["config"]
    loaded.check(scheduler=run, graph=GRAPH)


def edited(tmp_path, stored=STORED[0], **changes) -> Path:
    """The stored file with other values; `...` leaves one out."""
    content = {**json.loads(stored.read_text()), **changes}
    path = tmp_path / "mask.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return path


@pytest.mark.parametrize(("changes", "message"), [
    ({"format_version": 9}, "format version 9.*versions 1, 2, 3, 4, 5: update stepmask"),
    ({"format_version": True}, "format version True"),
    ({"format_version": [1]}, r"format version \[1\]"),
    ({"format_version": "1"}, "format version '1'"),
    ({"format_version": ...}, "format version None"),
    ({"format": "other"}, "not a mask file"),
    ({"format": ...}, "not a mask file"),
    *(({key: ...}, f"'{key}' is missing") for key in ("rows", "sites", "timesteps", "scheduler", "graph")),
    *(({key: ...}, f"'{key}' is missing") for key in ("scores", "provenance")),
    ({"rows": ["111", "10", "010", "110"]}, "row 1 has 2 cells, row 0 has 3"),
    ({"rows": ["111", "1O1", "010", "110"]}, "row 1 holds 'O'"),
    ({"rows": ["111", "121", "010", "110"]}, "row 1 holds '2'"),
    ({"rows": ["111", "1l1", "010", "110"]}, r"row 1 holds 'l'; format 1 knows 1 .*; later ones also l \(linear"),
    ({"rows": ["111", "1x1", "010", "110"], "format_version": 2}, "row 1 holds 'x'; format 2 knows .*and l "),
    ({"rows": ["1l1", "101", "010", "110"], "format_version": 2}, "row 0 must compute"),
    ({"rows": ["011", "101", "010", "110"]}, "row 0 must compute"),
    ({"rows": ["111", "101", "010"]}, "3 rows needs 4|3 rows needs 3 timesteps, got 4"),
    ({"rows": []}, "list of strings"),
    ({"rows": [""]}, "steps x sites"),
    ({"rows": "111"}, "list of strings"),
    ({"rows": [[1, 1, 1]]}, "list of strings"),
    ({"sites": "abc"}, '"sites" must be a list'),
    ({"sites": ["a", "a", "b"]}, "given twice: a"),
    ({"sites": ["a", 1, "b"]}, "site names"),
    ({"timesteps": 4}, '"timesteps" must be a list'),
    ({"timesteps": [4, 3, 2]}, "4 rows needs 4 timesteps, got 3"),
    ({"timesteps": [4, 3, 2, float("nan")]}, "finite"),
    ({"timesteps": [4, 3, 2, float("inf")]}, "finite"),
    ({"timesteps": [4, 3, 2, None]}, "cannot be used"),
    ({"timesteps": [10**400, 3, 2, 1]}, "cannot be used"),
    ({"scores": [[1, 1, 1]]}, "shape"),
    ({"scores": [[1, 1, 1], [1, 1], [1, 1, 1], [1, 1, 1]]}, "cannot be used"),
    ({"scores": [[1, 1, 1], [2, 1, 1], [1, 1, 1], [1, 1, 1]]}, r"\[0, 1\]"),
    ({"scores": [[1, 1, 1], [float("nan"), 1, 1], [1, 1, 1], [1, 1, 1]]}, r"\[0, 1\]"),
    ({"scores": [["x"] * 3] * 4}, "cannot be used"),
    ({"scheduler": "DDIM"}, '"scheduler" must hold'),
    ({"scheduler": {"class": "DDIMScheduler"}}, '"scheduler" must hold'),
    ({"graph": 7}, '"graph" must be'),
    ({"provenance": []}, '"provenance" must be'),
])  # fmt: skip
def test_edited_files_are_refused_in_words(tmp_path, changes, message):
    path = edited(tmp_path, **changes)
    with pytest.raises(MaskFileError, match=message) as error:
        StepMask.load(path)
    assert path.name in str(error.value)


WHOLE = STORED[0].read_text().rstrip()
CUT = (WHOLE[: int(len(WHOLE) * share)] for share in (0, 0.1, 0.5, 0.9, 0.99))
OTHER_FILES = [(text, r"not valid JSON.*cut short") for text in CUT]
OTHER_FILES += [(data, "mask.json") for data in (b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 100_000, b"1" * 5000)]
OTHER_FILES += [(text, "not a mask file") for text in ("[]", "3", "null", '"stepmask"')]


@pytest.mark.parametrize(("data", "message"), OTHER_FILES, ids=range(len(OTHER_FILES)))
def test_other_files_are_refused(tmp_path, data, message):
    path = tmp_path / "mask.json"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    check_refused(message, StepMask.load, path, error=MaskFileError)


def test_huge_files_are_refused_before_they_take_memory(tmp_path):
    width = 100_000
    path = edited(tmp_path, rows=["1" * width] * (MAX_CELLS // width + 1))
    check_refused("10,000,000 cells", StepMask.load, path, error=MaskFileError)


@pytest.mark.parametrize(("rows", "sites"), [
    (["1" * 10_001], ["a"] * 10_001), (["1"], ["a" * 1_001]),
])  # fmt: skip
def test_what_no_sampler_comes_near_is_refused(rows, sites, tmp_path):
    path = edited(tmp_path, rows=rows, sites=sites, timesteps=[1] * len(rows), scores=None)
    check_refused("more than (10,000 sites|1,000 letters)", StepMask.load, path, error=MaskFileError)


def test_more_rows_than_any_run_has():
    mask = small(compute=np.ones((4_001, 3)), timesteps=range(4_001), scores=None)
    check_refused("4,001 rows, and no scheduler makes a run of more than 4,000", make_plan, mask, GRAPH)


def test_many_sites_of_one_name_are_named_once(tmp_path):
    path = edited(tmp_path, rows=["1" * 10_000], sites=[f"s{i // 2}" for i in range(10_000)], timesteps=[1])
    check_refused("given twice: s0, s1, s10, s100, s1000$", StepMask.load, path, error=MaskFileError)


def test_gains_of_cells_and_of_channels_multiply():
    given = {**FORECAST, "gains": np.full((3, 3), 20.0), "channel_gains": {SITES[1].name: [1.0, -6.0]}}
    check_refused(r"gains times channel_gains of 'blocks.1' must lie between -100 and 100", small, **given)
    assert small(**{**given, "gains": np.full((3, 3), 16.0)}).channel_gains


@pytest.mark.parametrize(("rows", "width"), [(4_000, 10_000), (1_000, 40_000)])
def test_huge_weights_are_refused_before_they_take_memory(tmp_path, rows, width):
    """One row of them that forecasts stands for all rows."""
    path = edited(
        tmp_path, STORED[4], rows=["1", "1", "l"] + ["1"] * (rows - 3), sites=["blocks"], timesteps=[1] * rows,
        gains=None, channel_gains=None, weights={"blocks": [[[1.0] * width] * 3]},
    )  # fmt: skip
    check_refused("more than 100,000,000 weights", StepMask.load, path, error=MaskFileError)


def test_weights_and_sites_that_do_not_go_together(tmp_path):
    path = edited(tmp_path, STORED[4], rows=["11", "1l"], timesteps=[2, 1], gains=None)
    check_refused("2 columns needs 2 site names, got 6", StepMask.load, path, error=MaskFileError)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        check_refused("cannot read mask", StepMask.load, path, error=MaskFileError)


def test_saving_to_nowhere_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "mask.json", tmp_path / "file" / "mask.json", tmp_path / "folder"):
        with pytest.raises(StepMaskError, match=r"cannot write .*folder that you may write to"):
            small().save(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_leaves_the_old_file(tmp_path):
    path = tmp_path / "mask.json"
    small().save(path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StepMaskError, match="PermissionError"):
            small(scores=None).save(path)
    finally:
        tmp_path.chmod(0o700)
    assert StepMask.load(path) == small()


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "mask.json"
    small().save(path)

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StepMaskError, match="No space left"):
        small(scores=None).save(path)
    assert StepMask.load(path) == small()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()], ids=["nan", "set", "object"])
def test_provenance_that_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "mask.json"
    small().save(path)
    with pytest.raises(StepMaskError, match="provenance"):
        small(provenance={"value": value}).save(path)
    assert StepMask.load(path) == small()


# --- checks


@pytest.mark.filterwarnings("error::UserWarning")
def test_check_accepts_its_own_model_and_run():
    run, other = scheduler(10), scheduler(3, DDPMScheduler)
    for_run(run).check(graph=GRAPH, scheduler=run)
    for_run(run).check()
    small(timesteps=other.timesteps).check(scheduler=other)  # without an identity it fits any of its length
    small(graph=None).check(graph=BlockGraph.branches(SITES))  # a mask by hand fits by names


TEN = for_run(scheduler(10))


@pytest.mark.parametrize(("mask", "other", "message"), [
    (
        small(),
        {"graph": BlockGraph.chain([Site("stranger", "resnet"), *SITES[1:]])},
        r"1 of 3 sites that the model lacks, 'blocks.0'.*learn a mask",
    ),
    (small(), {"graph": BlockGraph.branches(SITES)}, r"another structure.*learn a mask"),
    (TEN, {"scheduler": scheduler(10, DDPMScheduler)}, r"made for DDIMScheduler, the run uses DDPMScheduler.*set that"),
    (
        TEN,
        {"scheduler": scheduler(10, timestep_spacing="trailing")},
        r"timestep_spacing = 'leading' \(here 'trailing'\).*configure",
    ),
    (TEN, {"scheduler": scheduler(20)}, r"10 rows.*has 20.*num_inference_steps=10.*resample\(scheduler"),
    (small(provenance={}), {"scheduler": scheduler(20)}, "a number of steps that makes 3 rows"),
])  # fmt: skip
def test_check_refuses_what_is_another(mask, other, message):
    check_refused(message, mask.check, **other, error=MaskMismatchError)


def test_shifted_timesteps_are_a_warning():
    run = scheduler(10, FlowMatch)
    mask = for_run(run)
    run.set_timesteps(sigmas=(np.linspace(1, 0.2, 10)).tolist())
    with pytest.warns(UserWarning, match="timesteps differ.*row by row"):
        mask.check(scheduler=run)


# --- resample


def test_resample_takes_rows_around():
    mask = small().resample([900, 510, 90])
    assert mask.compute.astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [0, 1, 0]]
    assert mask.timesteps == (900, 510, 90)
    assert mask.scores is None
    assert mask.provenance == {"method": "test", "resampled_from_rows": 3}
    assert (mask.graph, mask.scheduler, mask.sites) == (small().graph, None, small().sites)


def test_resample_keeps_forecasts():
    mask = small(forecast=[[0, 0, 0], [0, 1, 0], [1, 0, 1]]).resample([490, 510, 90])
    assert mask.actions.tolist() == [[1, 1, 1], [1, 2, 1], [2, 1, 2]], "and computes its first row"
    same = small(forecast=[[0, 0, 0], [0, 1, 0], [1, 0, 1]])
    assert same.resample(1).is_binary
    assert all(np.array_equal(same.resample(rows).actions, same.actions) for rows in (3, same.timesteps))


def test_resample_to_a_number_spreads_rows_evenly():
    mask = small(compute=[[1, 1, 1], [0, 0, 1], [0, 1, 0]]).resample(6)
    rows = ["".join(map(str, row)) for row in mask.compute.astype(int)]
    assert rows[0] == "111" and rows[-1] == "010" and set(rows) == {"111", "001", "010"}
    assert len(mask.timesteps) == 6 and list(mask.timesteps) == sorted(mask.timesteps, reverse=True)


@pytest.mark.parametrize("rows", [7, 10, 13, 20, 30, 40, 61])
def test_resample_keeps_every_second_step_as_such(rows):
    """Rows by the nearest timestep alone would all compute, or none, at half as many."""
    old = 20
    compute = np.repeat((np.arange(old) % 2 == 0)[:, None], 4, axis=1)
    mask = StepMask(compute=compute, sites="abcd", timesteps=np.linspace(950, 0, old))
    found = mask.resample(np.linspace(950, 0, rows)).compute
    assert (found == found[:, :1]).all(), "rows stay whole"
    assert abs(found[:, 0].mean() - 0.5) <= 1.5 / rows
    changes = (np.diff(found[:, 0].astype(int)) != 0).mean()
    assert changes > 0.8, "and in turns"


@given(mask=masks(), rows=st.integers(1, 12))
def test_resampled_rows_are_old_rows_from_around(mask, rows):
    actions = mask.resample(rows).actions
    assert actions.shape == (rows, len(mask.sites)) and (actions[0] == Action.compute).all()
    step = mask.num_rows / rows
    for row in range(1, rows):
        place = row * step
        around = range(max(0, math.floor(place) - 1), min(mask.num_rows - 1, math.ceil(place) + 1) + 1)
        assert any(np.array_equal(actions[row], mask.actions[old]) for old in around)


def test_resample_to_another_scheduler_takes_its_identity():
    other = scheduler(6, DDPMScheduler)
    mask = small().resample(other)
    assert mask.check(scheduler=other) is None
    assert mask.scheduler["class"] == "DDPMScheduler" and mask.num_rows == 6
    assert small().resample(other.timesteps).scheduler == small().scheduler


@given(random=st.randoms(use_true_random=False))
@pytest.mark.parametrize("make", [PNDMScheduler, HeunDiscreteScheduler])
def test_resample_to_the_same_run_of_a_scheduler_that_repeats_timesteps(make, random):
    run = make(skip_prk_steps=True) if make is PNDMScheduler else make()
    run.set_timesteps(8)
    timesteps = run.timesteps.tolist()
    assert len(set(timesteps)) < len(timesteps)
    compute = np.array([[random.random() < 0.5 for _ in range(3)] for _ in timesteps])
    compute[0] = True
    mask = small(compute=compute, sites=("a", "b", "c"), timesteps=tuple(timesteps), scores=None)
    assert np.array_equal(mask.resample(run).compute, compute)


def test_resample_to_nothing_is_refused():
    with pytest.raises(StepMaskError, match="at least one row"):
        small().resample(0)
    with pytest.raises(StepMaskError):
        small().resample([])
