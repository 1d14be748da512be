"""The plot of memory: one line per way to learn."""

import pytest

from stepmask import StepMaskError
from stepmask_lab import pages


def test_one_line_per_way_in_the_order_of_steps():
    found = {"full chain": {"100": 900.0, "20": 300.0}, "per step": {"20": 100.0, "50": 110.0}}
    (axes,) = pages.memory(found, "a model").axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == list(found)
    assert list(lines["full chain"].get_xdata()) == [20, 100] and list(lines["full chain"].get_ydata()) == [300, 900]
    assert list(axes.get_xticks()) == [20, 50, 100] and axes.get_ylim()[0] == 0
    assert axes.get_title(loc="left") == "a model"


@pytest.mark.parametrize("found", [{}, {"full chain": {}}])
def test_nothing_to_draw(found):
    with pytest.raises(StepMaskError, match="no memory to draw"):
        pages.memory(found, "a model")
