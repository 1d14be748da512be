"""Similarity of steps: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from stepmask_lab.pages.step_similarity import output_changes, site_changes

SITES = ["down_blocks.0.resnets.0", "mid_block.attentions.0", "up_blocks.0.resnets.0"]


def test_changes_of_the_output_are_shares_of_the_largest():
    figure = output_changes(np.array([0.0, 0.2, 0.4, 0.02]), np.array([1.0, 1.0, 1.0, 2.0]))
    FigureCanvasAgg(figure).draw()
    changes, weights = (axes.lines[0].get_ydata() for axes in figure.axes)
    assert changes == pytest.approx([0.5, 1.0, 0.05]) and list(weights) == [1.0, 1.0, 2.0]


def test_changes_of_sites_leave_the_first_step_empty():
    changes = np.array([[np.nan] * 3, [0.1, 0.2, 0.4], [0.0, 1.0, 0.3]])
    figure = site_changes(SITES, changes)
    FigureCanvasAgg(figure).draw()
    (image,) = figure.axes[0].images
    drawn = image.get_array()
    assert drawn.shape == (3, 3) and drawn.mask[:, 0].all() and drawn[1, 2] == 1.0
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][1] == "mid attn 0"


def test_a_run_that_never_changes_can_be_drawn():
    figure = site_changes(SITES, np.full((2, 3), np.nan))
    FigureCanvasAgg(figure).draw()
    (image,) = figure.axes[0].images
    assert image.get_array().mask.all() and image.get_array().shape == (3, 2)
