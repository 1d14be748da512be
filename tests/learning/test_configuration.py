"""Configurations: each option is stated once, and checks, docstring, identity and what is stored all follow from it."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from functools import partial
from typing import Any, Literal

import pytest
import torch

from refusal import check_refused
from stepmask import StepMaskError
from stepmask.learning import Configuration, EndToEnd, Paper, Tuning, learners, option

OURS = [EndToEnd, Paper, Tuning]


@dataclass(frozen=True, kw_only=True)
class Inner(Configuration):
    """What lies within."""

    depth: int = option(2, "How deep.", low=1, high=9)


USUAL = Inner()


@dataclass(frozen=True, kw_only=True)
class Example(Configuration):
    """Everything that an option can be."""

    count: int = option(3, "How many.", low=1, high=2_000_000, unit="images")
    rate: float = option(0.5, "How fast.", low=0.0, high=1.0, may_change=True)
    most: int | None = option(None, "At most.", low=1, high=10)
    kind: Literal["one", "two"] = option("one", "Which.")
    really: bool = option(True, "Whether.")
    function: Callable[[Any], Any] | None = option(None, "What is called.", on_command_line=False)
    inner: Inner = option(USUAL, "More.", on_command_line=False)
    free: float = option(0.0, "Any number.")


@dataclass(frozen=True, kw_only=True)
class Derived(Example):
    """The same with another default, and one more."""

    rate: float = option(0.25, "How slow.", low=0.0, high=1.0)
    word: str = option("a", "What to say.")


@pytest.mark.parametrize(("options", "says"), [
    ({"count": 0}, "count must be a number between 1 and 2e+06, got 0"),
    ({"count": 2.5}, "count must be a whole number, got 2.5"),
    ({"count": True}, "count must be a number between 1"),
    ({"count": "3"}, "count must be a number between 1"),
    ({"count": None}, "count must be a number"),
    ({"rate": 1.5}, "rate must be a number between 0 and 1, got 1.5"),
    ({"rate": float("nan")}, "rate must be a number between 0 and 1, got nan"),
    ({"most": 11}, "most must be a number between 1 and 10, got 11"),
    ({"kind": "three"}, "kind must be one of one, two, got 'three'"),
    ({"kind": ["one"]}, "kind must be one of one, two"),
    ({"really": 1}, "really must be True or False, got 1"),
    ({"function": 3}, "function must be a function, got int"),
    ({"inner": {"depth": 3}}, "inner must be a Inner, got dict"),
    ({"inner": Example()}, "inner must be a Inner, got Example"),
    ({"free": "x"}, "free must be a number between -inf and inf, got 'x'"),
], ids=str)  # fmt: skip
def test_values_that_make_no_sense(options, says):
    with pytest.raises(StepMaskError) as caught:
        Example(**options)
    assert says in str(caught.value)


def test_values_that_do():
    made = Example(count=2_000_000, rate=1, most=None, kind="two", really=False, function=abs, inner=Inner(depth=9))
    assert replace(made, most=10).most == 10 and Derived().rate == 0.25 and Derived(count=1).names()[-1] == "word"
    with pytest.raises(FrozenInstanceError):
        made.count = 4
    check_refused("between", replace, made, rate=-1)
    check_refused("word must be a word, got 3", Derived, word=3)
    with pytest.raises(TypeError):
        Example(3)


def test_facts_of_options():
    known = {one.name: one for one in Example.options()}
    assert list(known) == ["count", "rate", "most", "kind", "really", "function", "inner", "free"]
    assert [known[name].type for name in ("count", "rate", "most", "kind", "really", "inner")] == [
        int, float, int, str, bool, Inner,
    ]  # fmt: skip
    assert known["most"].may_be_none and not known["count"].may_be_none
    assert (known["count"].low, known["count"].high, known["count"].unit) == (1, 2_000_000, "images")
    assert known["kind"].choices == ("one", "two") and known["function"].type is Callable
    assert known["rate"].may_change and not known["count"].may_change
    assert not known["function"].on_command_line and known["count"].on_command_line
    spelled = [known[name].range for name in ("count", "rate", "most", "kind", "really", "free")]
    assert spelled == ["1 to 2e+06", "0 to 1", "1 to 10, or none", "one, two", "yes or no", ""]


def test_the_docstring_lists_them():
    head, _, listed = Example.__doc__.partition("\n\n    Attributes:\n")
    assert listed.startswith("        count: How many. Default: 3.\n        rate: How fast. Default: 0.5.\n")
    assert head == "Everything that an option can be."
    assert "inner: More. Default: Inner()." in Example.__doc__
    lines = Derived.__doc__.splitlines()
    assert [line.partition(":")[0].strip() for line in lines[-9:]] == [*Example.names(), "word"]
    assert sum("How slow." in line for line in lines) == 1 and not any("How fast." in line for line in lines)


def test_what_is_stored_is_json_and_makes_the_same_configuration_again():
    made = Example(count=4, inner=Inner(depth=3))
    stored = json.loads(json.dumps(made.to_dict()))
    assert stored["inner"] == {"depth": 3} and stored["function"] is None
    assert Example(**{**stored, "inner": Inner(**stored["inner"])}) == made
    assert Example(function=abs).to_dict()["function"] == "given"


class Caller:
    """An object that may be called."""

    def __call__(self, images):
        return images


def test_what_may_change_and_which_function_it_is():
    assert Example().identity() == Example(rate=0.9).identity() != Example(count=4).identity()
    assert "rate" not in Example().identity() and Example(inner=Inner(depth=3)).identity()["inner"] == {"depth": 3}

    def named(function) -> str:
        return Example(function=function).identity()["function"]

    assert named(partial(torch.clamp, min=0)) == named(torch.clamp) != named(torch.abs)
    assert named(Caller()) == named(Caller()) == "Caller", "where it lies in memory is no matter"
    assert json.dumps(Example(function=lambda z: z).identity())


@pytest.mark.parametrize("configuration", OURS)
def test_ours_say_their_ranges_and_keep_to_them(configuration):
    """Every number has both ends, its default lies between them, and a step outside of either is refused."""
    made = configuration()
    for one in configuration.options():
        assert one.help.endswith((".", "`Tuning`.")) and f"{one.name}: {one.help}" in configuration.__doc__
        if one.type not in (int, float):
            continue
        assert one.low is not None and one.high is not None and (one.default is None or one.low <= one.default)
        for value in (one.low, one.high):
            assert getattr(replace(made, **{one.name: value}), one.name) == value
        for value in (one.low - 1, one.high * 2 + 1, float("nan"), "x", True):
            check_refused(f"^{one.name} must be", replace, made, **{one.name: value})
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()


def test_every_learner_has_a_configuration_of_its_own_whose_defaults_hold():
    kinds = [learner.configuration for learner in learners().values()]
    assert len(set(kinds)) == len(kinds) and {EndToEnd, Paper} <= set(kinds)
    assert all(kind() == kind() for kind in kinds)


def test_tuned_numbers_are_stored_where_they_are_unusual():
    assert "tuning" not in EndToEnd().to_dict()
    assert EndToEnd(tuning=Tuning(patience=1.0)).to_dict()["tuning"]["patience"] == 1.0
    assert EndToEnd().identity()["tuning"]["patience"] == 2.0
    changing = {one.name for one in EndToEnd.options() if one.may_change}
    assert changing == {"num_held_back", "images_per_call", "offload", "gradient_checkpointing", "graph_bytes"}
