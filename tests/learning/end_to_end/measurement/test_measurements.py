"""What a search has measured is given back, in this process and in the next."""

from dataclasses import fields

import numpy as np
import pytest

from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end.gradients.probe import Probe
from stepmask.learning.end_to_end.measurement.measurements import Measurements


@pytest.fixture
def probe() -> Probe:
    random = np.random.default_rng(0)
    shapes = {"square": (2,), "linear": (3, 4, 3, 2), "projections": (3, 4, 3, 2, 1)}
    return Probe(size=12, **{name: random.normal(size=shape) for name, shape in shapes.items()})


def test_it_gives_back_what_was_kept(tmp_path, probe):
    def opened() -> Checkpoint:
        return Checkpoint(tmp_path / "state", {"seed": 3}, Effort())

    checkpoint, psnrs, actions = opened(), np.array([31.5, 42.0]), np.array([[1, 1], [0, 2]], np.uint8)
    measured = Measurements(checkpoint.arrays)
    assert measured.psnrs("a") is None and measured.probe("a") is None and measured.gains("a") is None
    measured.keep_psnrs("a", psnrs)
    measured.keep_probe("a", probe)
    measured.keep_gains("a", actions, np.ones((2, 2)), {"mid": np.array([0.5, 1.5])})
    measured.keep_gains("none", actions, None, None)
    checkpoint.save()
    for again in (measured, Measurements(opened().arrays)):
        assert np.array_equal(again.psnrs("a"), psnrs) and again.psnrs("b") is None and again.probe("b") is None
        for field in fields(Probe):
            assert np.array_equal(getattr(again.probe("a"), field.name), getattr(probe, field.name)), field.name
        table, gains, channels = again.gains("a")
        assert np.array_equal(table, actions) and np.array_equal(gains, np.ones((2, 2)))
        assert channels.keys() == {"mid"} and channels["mid"].tolist() == [0.5, 1.5]
        assert again.gains("none")[1:] == (None, None)


def test_one_plan_probed_in_parts_is_one_probe(probe):
    both = Probe.of_parts([probe, probe])
    assert both.square.shape == (4,) and both.size == probe.size
    assert np.array_equal(both.linear, np.concatenate([probe.linear] * 2, axis=3))
    assert np.array_equal(both.projections[..., 2:, :], probe.projections)
