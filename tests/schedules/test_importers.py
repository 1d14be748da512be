"""Foreign schedules: what they mean, and that a file can at worst be refused."""

import argparse
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal import check_refused
from stepmask import BlockGraph, Site, StepMaskError, describe, presets, schedules
from stepmask.schedules import export_smoothcache, import_l2c, import_smoothcache
from tiny import ddim_pipeline, dit_pipeline

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data"
ROUTER = PUBLISHED / "l2c-DiT-XL-2-ddim50-router.pt"
LAYERS = (("attn1", "attention"), ("ff", "mlp"))
DIT = BlockGraph.branches([Site(f"blocks.{i}.{name}", kind) for i in range(2) for name, kind in LAYERS])
PIXART = BlockGraph.branches(
    [
        Site(f"blocks.{i}.{name}", kind)
        for i in range(2)
        for name, kind in (("attn1", "attention"), ("attn2", "cross_attention"), ("ff", "mlp"))
    ]
)
needs_published = pytest.mark.skipif(not ROUTER.exists(), reason=f"published schedules are not at {PUBLISHED}")


def words(mask) -> list[str]:
    return ["".join(map(str, row)) for row in mask.compute.astype(int)]


def saved(path, routers, **more):
    torch.save({"routers": routers, "opt": {"state": {}}, "args": argparse.Namespace(l1=1e-6), **more}, path)
    return path


def router(path, rows):
    """A file whose router for the last step is rows[0]."""
    return saved(path, OrderedDict((f"{i}.prob", torch.tensor(row, dtype=torch.float32)) for i, row in enumerate(rows)))


def test_a_router_counts_from_the_last_step_and_every_second_step_computes(tmp_path):
    low, high = -5.0, 5.0
    path = router(tmp_path / "r.pt", [[low, high, low, low], [low] * 4, [high, low, high, high], [low] * 4])
    mask = import_l2c(path, DIT, range(4))
    assert words(mask) == ["1111", "1011", "1111", "0100"]
    assert mask.provenance == {"method": "l2c", "theta": 0.1, "imported_from": "r.pt"}


def test_theta_is_compared_with_the_sigmoid(tmp_path):
    path = router(tmp_path / "r.pt", [[-2.2, -2.19, 2.19, 2.2], [0.0] * 4])  # 0.0998, 0.1006, 0.8993, 0.9002
    assert words(import_l2c(path, DIT, range(2)))[1] == "0111"
    assert words(import_l2c(path, DIT, range(2), theta=0.9))[1] == "0001"


def test_a_pipeline_takes_the_steps_of_the_router(tmp_path):
    pipe = dit_pipeline()
    path = router(tmp_path / "r.pt", [[-9.0] * 6] * 4)
    mask = import_l2c(path, pipe)
    assert words(mask) == ["111111", "000000"] * 2 and mask.provenance["num_inference_steps"] == 4
    check_refused(r"router r\.pt has 4 steps, the run has 6", import_l2c, path, pipe, 6)
    check_refused("give scheduler", import_l2c, path, describe(pipe))


@needs_published
def test_the_published_router_skips_664_of_2800_calls():
    graph = describe(presets.load("dit-xl-2-256"))
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(50)
    mask = import_l2c(ROUTER, graph, scheduler.timesteps)
    assert mask.compute.size == 2800 and (~mask.compute).sum() == 664
    assert mask.compute[::2].all()
    twin = import_smoothcache(PUBLISHED / "smoothcache-50-N-2-l2c.json", graph, scheduler.timesteps)
    assert np.array_equal(mask.compute, twin.compute), "SmoothCache's authors read the router in the same way"


@needs_published
@pytest.mark.parametrize("name", ["smoothcache-50-N-2-l2c.json", "smoothcache-50-N-3-threshold-0.08.json"])
def test_published_schedules_of_smoothcache_go_in_and_out(name, tmp_path):
    graph = describe(presets.load("dit-xl-2-256"))
    mask = import_smoothcache(PUBLISHED / name, graph, range(50))
    written = export_smoothcache(mask, tmp_path / "out.json", "dit")
    assert written == json.loads((PUBLISHED / name).read_text()) == json.loads((tmp_path / "out.json").read_text())


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("key", ["args", "opt", "routers"])
def test_a_file_that_would_run_code_is_refused(key, tmp_path):
    marker = tmp_path / "ran"
    content = {"routers": {"0.prob": torch.zeros(4), "1.prob": torch.zeros(4)}, "opt": {}, "args": None}
    torch.save({**content, key: Evil(marker)}, tmp_path / "evil.pt")
    check_refused("refused", import_l2c, tmp_path / "evil.pt", DIT, range(2))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(marker)))
    check_refused("no file of torch", import_l2c, tmp_path / "plain.pt", DIT, range(2))
    torch.save({**content, key: Evil(marker)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    check_refused("no file of torch", import_l2c, tmp_path / "old.pt", DIT, range(2))
    assert not marker.exists()


def test_the_allow_list_is_left_as_it_was(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    import_l2c(router(tmp_path / "r.pt", [[0.0] * 4] * 2), DIT, range(2))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_file_that_would_unpack_to_much_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**27))
    check_refused("would unpack to 128 MiB", import_l2c, tmp_path / "bomb.pt", DIT, range(2))


V = torch.zeros(4)
SHAPES = {
    "not numbered": ({"a.prob": V}, 'map "0.prob"'),
    "key of another kind": ({0: V}, 'map "0.prob"'),
    "gap": ({"0.prob": V, "2.prob": V}, "without gaps"),
    "leading zero": ({"00.prob": V}, 'map "0.prob"'),
    "lengths differ": ({"0.prob": V, "1.prob": torch.zeros(6)}, r"each router must hold 2 \* depth numbers"),
    "odd": ({"0.prob": torch.zeros(3)}, r"each router must hold 2 \* depth numbers"),
    "empty": ({"0.prob": torch.zeros(0)}, r"each router must hold 2 \* depth numbers"),
    "table": ({"0.prob": torch.zeros(2, 2)}, 'map "0.prob"'),
    "integers": ({"0.prob": torch.zeros(4, dtype=torch.long)}, 'map "0.prob"'),
    "sparse": ({"0.prob": torch.zeros(4).to_sparse()}, "it names 'torch.*_rebuild"),
    "larger than its file": ({"0.prob": torch.zeros(1).expand(10**10)}, r"each router must hold 2 \* depth numbers"),
    "without storage": ({"0.prob": torch.zeros(4, device="meta")}, "it names 'torch.*_rebuild"),
    "nested": ({"0.prob": torch.nested.nested_tensor([V, V], layout=torch.jagged)}, "it names 'torch.*_rebuild"),
    "list": ({"0.prob": [0.0] * 4}, 'map "0.prob"'),
    "not finite": ({"0.prob": torch.full((4,), torch.nan)}, "not finite"),
    "more blocks": ({"0.prob": torch.zeros(6), "1.prob": torch.zeros(6)}, "a model of 3 blocks, this one has 2"),
    "no routers": ({}, "is no router"),
    "routers are a list": (
        [1],
        "is no router: expected a dictionary with \"routers\", got a dictionary with 'routers'",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_routers_of_the_wrong_shape(name, tmp_path):
    content, says = SHAPES[name]
    check_refused(says, import_l2c, saved(tmp_path / "r.pt", content), DIT, range(2))


def tuples_of_tuples(levels: int) -> bytes:
    """A key that is two of what was before, again and again: its hash takes for ever."""
    twice = (b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(levels))
    return b"\x80\x02)q\x00" + b"".join(twice) + b"}q\xfeh" + bytes([levels]) + b"K\x01s."


BOMBS = {
    "tuples": (tuples_of_tuples(60), "values of more than 1,000,000 parts"),
    "memory": (b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (4 << 30).to_bytes(5, "little") + b"\x85R.", "it names"),
    "depth": (b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x01s.", "more than 50 within each other"),
    "set": (b"\x80\x04\x8f.", "it holds EMPTY_SET"),
    "missing": (b"\x80\x02\x86.", "it takes more than it has"),
    "no memo": (b"\x80\x02h\x01.", "it is no pickle of tensors"),
    "no pickle": (b"\xff" * 9, "it is no pickle of tensors"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_say_more_than_they_are_long(name, tmp_path):
    """Refused before anything is made of them."""
    data, says = BOMBS[name]
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        for part, content in (("data.pkl", data), ("version", "3\n"), ("byteorder", "little")):
            archive.writestr(f"a/{part}", content)
    check_refused(f"is refused: .*{says}", import_l2c, tmp_path / "bomb.pt", DIT, range(2))


def test_files_that_are_no_routers(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    check_refused(r"is no router: .* got Tensor", import_l2c, tmp_path / "t.pt", DIT, range(2))
    check_refused(r"cannot read .*No such file", import_l2c, tmp_path / "none.pt", DIT, range(2))
    whole = router(tmp_path / "r.pt", [[0.0] * 4] * 2).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pt").write_bytes(whole[:cut])
        check_refused(r"cut\.pt", import_l2c, tmp_path / "cut.pt", DIT, range(2))
    check_refused("theta is a threshold between 0 and 1", import_l2c, tmp_path / "r.pt", DIT, range(2), theta=2)


@pytest.mark.parametrize("graph", [PIXART, describe(ddim_pipeline())])
def test_routers_are_for_dits(graph, tmp_path):
    with pytest.raises(StepMaskError, match="routers of Learning-to-Cache are for DiT"):
        import_l2c(router(tmp_path / "r.pt", [[0.0] * 4] * 2), graph, range(2))


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=60), st.integers(0, 10**6))
def test_damaged_routers_are_at_worst_refused(tmp_path_factory, noise, where):
    folder = tmp_path_factory.mktemp("fuzz")
    whole = bytearray(router(folder / "r.pt", [[0.0] * 4] * 2).read_bytes())
    where %= len(whole)
    whole[where : where + len(noise)] = noise
    (folder / "r.pt").write_bytes(whole)
    try:
        assert words(import_l2c(folder / "r.pt", DIT, range(2)))[0] == "1111"
    except StepMaskError:
        pass


def write(tmp_path, content) -> Path:
    path = tmp_path / "s.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


KEYS = {
    "kinds of DiT": ({"attn": [1, 0], "mlp": [1, 1]}, "0101"),
    "kinds of diffusers": ({"attn1": [1, 0], "ff": [1, 1]}, "0101"),
    "one kind alone": ({"ff": [1, 0]}, "1010"),
    "blocks": ({"attn-0": [1, 0], "mlp-0": [1, 1], "attn-1": [1, 1], "mlp-1": [1, 0]}, "0110"),
    "blocks of diffusers": ({"attn1-1": [1, 0]}, "1101"),
    "kind and block": ({"attn": [1, 0], "mlp-1": [1, 0]}, "0100"),
}


@pytest.mark.parametrize("name", KEYS)
def test_styles_of_keys(name, tmp_path):
    content, row = KEYS[name]
    mask = import_smoothcache(write(tmp_path, content), DIT, range(2))
    assert words(mask) == ["1111", row]
    assert mask.provenance == {"method": "smoothcache", "imported_from": "s.json"}


def test_cross_attention_has_a_key(tmp_path):
    mask = import_smoothcache(write(tmp_path, {"attn2": [1, 0, 1], "ff-1": [1, 1, 0]}), PIXART, range(3))
    assert words(mask) == ["111111", "101101", "111110"]


REFUSED = {
    "no object": ([1, 0], "no schedule of SmoothCache"),
    "empty": ({}, "no schedule of SmoothCache"),
    "empty list": ({"attn": []}, "does not hold a list of 1 and 0"),
    "truth": ({"attn": [True, False]}, "does not hold a list of 1 and 0"),
    "two": ({"attn": [1, 2]}, "does not hold a list of 1 and 0"),
    "fraction": ({"attn": [1, 0.5]}, "does not hold a list of 1 and 0"),
    "nested": ({"attn": [[1], [0]]}, "does not hold a list of 1 and 0"),
    "no list": ({"attn": "10"}, "does not hold a list of 1 and 0"),
    "strange key": ({"attn-x": [1, 0]}, "does not hold a list of 1 and 0"),
    "reuses at first": ({"attn": [0, 1]}, "reuses at the first step"),
    "lengths": ({"attn": [1, 0], "mlp": [1]}, r"different numbers of steps, \[1, 2\]"),
    "no such layers": ({"conv": [1, 0]}, "has no layers 'conv'; it has attn1, ff"),
    "more blocks": ({"attn-2": [1, 0]}, "a model with more blocks, this one has 2"),
    "twice": ({"attn": [1, 0], "attn1-1": [1, 0]}, "both mean blocks.0.attn1|both mean blocks.1.attn1"),
    "a key twice": ('{"attn": [1, 0], "attn": [1, 1]}', "says a key twice"),
    "cut": ('{"attn": [1, 0', "not valid JSON"),
    "deep": ("[" * 10**5, "not valid JSON"),
    "three steps": ({"attn": [1, 0, 1]}, r"schedule s\.json has 3 steps, the run has 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_schedule_is_refused(name, tmp_path):
    content, says = REFUSED[name]
    check_refused(says, import_smoothcache, write(tmp_path, content), DIT, range(2))


def test_binary_rubbish_and_missing_files(tmp_path):
    (tmp_path / "s.json").write_bytes(b"\xff\xfe\x00")
    check_refused("not valid JSON", import_smoothcache, tmp_path / "s.json", DIT, range(2))
    check_refused("cannot read", import_smoothcache, tmp_path / "none.json", DIT, range(2))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["attn", "ff", "ff-1", "x"]), inner),
    max_leaves=12,
)


@settings(deadline=None, max_examples=100)
@given(JSON)
def test_any_json_is_at_worst_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "s.json"
    path.write_text(json.dumps(content))
    try:
        made = import_smoothcache(path, DIT, range(2))
    except StepMaskError as error:
        assert str(error), "in words"
    else:
        assert made.compute.shape[0] == 2 and made.compute[0].all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 8), st.floats(0, 1), st.sampled_from(["diffusers", "dit"]))
def test_every_binary_mask_of_a_transformer_goes_out_and_in(tmp_path_factory, seed, rows, density, names):
    path = tmp_path_factory.mktemp("round") / "s.json"
    mask = schedules.random_schedule(PIXART, range(rows), density, seed)
    content = export_smoothcache(mask, path, names)
    assert {key.partition("-")[0] for key in content} == (
        {"attn1", "attn2", "ff"} if names == "diffusers" else {"attn", "attn2", "mlp"}
    )
    assert np.array_equal(import_smoothcache(path, PIXART, range(rows)).compute, mask.compute)


def test_blocks_that_do_the_same_share_a_key(tmp_path):
    mask = schedules.fora(DIT, range(4), 2)
    assert export_smoothcache(mask, tmp_path / "s.json") == {"attn1": [1, 0, 1, 0], "ff": [1, 0, 1, 0]}


def two_lists():
    sites = [Site(f"{list_}.{i}.attn1", "attention") for list_ in ("one", "two") for i in range(2)]
    return schedules.fora(BlockGraph.branches(sites), range(3), 2)


CANNOT = {
    "forecasts": (lambda: schedules.fora(DIT, range(4), 3, forecast="linear"), "this mask forecasts"),
    "resnets": (lambda: schedules.fora(ddim_pipeline(), 4, 2), "this mask holds down_blocks.0.resnets.0"),
    "two lists of blocks": (two_lists, "this mask has 2 lists of blocks"),
    "no layers": (lambda: schedules.fora(ddim_pipeline(), 4, 1), "this mask has none"),
    "gap": (
        lambda: schedules.fora(BlockGraph.branches([Site("b.1.ff", "mlp")]), range(3), 2),
        r"from 0 without gaps, ff has \[1\]",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_a_file_cannot_say_is_not_written(name, tmp_path):
    make, says = CANNOT[name]
    check_refused(says, export_smoothcache, make(), tmp_path / "s.json")
    assert not list(tmp_path.iterdir())
    check_refused(
        "names must be one of", export_smoothcache, schedules.fora(DIT, range(4), 2), tmp_path / "s.json", "qkv"
    )
