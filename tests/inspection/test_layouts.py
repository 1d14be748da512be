"""What operations return is remembered by layout: the second time is the first, and nothing is confused."""

import pytest
import torch
from torch import nn

from stepmask.inspection import layouts
from stepmask.inspection.layouts import Layout, Remembering


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    monkeypatch.setattr(layouts, "_results", {})


def on_meta(*shape, **options):
    return torch.empty(*shape, device="meta", **options)


def layout_of(tensor):
    return Layout(tensor.shape, tensor.stride(), tensor.dtype)


IMAGES = on_meta(2, 8, 4, 4)
OPERATIONS = {
    "one result": lambda: IMAGES + on_meta(8, 1, 1),
    "several": lambda: torch.native_group_norm(IMAGES, None, None, 2, 8, 16, 4, 1e-5)[1],
    "a list": lambda: torch.cat([IMAGES, on_meta(2, 3, 4, 4)], dim=1),
    "strides": lambda: IMAGES.to(memory_format=torch.channels_last) * 2,
    "another dtype": lambda: IMAGES.to(torch.bfloat16),
    "a number of another type": lambda: on_meta(3, dtype=torch.int64) * 2.0,
    "a view": lambda: IMAGES.flatten(1)[:, 3:],
    "in place": lambda: on_meta(2, 8, 4, 4).add_(1),
    "a module": lambda: nn.Linear(4, 6, device="meta")(IMAGES),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_remembered_results_are_those_of_torch(operation):
    with torch.no_grad():
        on_meta(3, dtype=torch.int64) * 2
        wanted = layout_of(operation())
        with Remembering():
            assert [layout_of(operation()) for _ in range(2)] == [wanted] * 2


def test_what_is_known_is_not_asked_again():
    alike = on_meta(2, 8, 4, 4)
    with Remembering():
        first, second = IMAGES + 1, alike + 1
        assert len(layouts._results) == 1
        assert first is not second and first.untyped_storage()._cdata != second.untyped_storage()._cdata
        assert (IMAGES + 1.0).dtype == torch.float32 and len(layouts._results) == 2


def test_values_stay_values_and_views_stay_views():
    with Remembering():
        for start in range(2):
            assert (torch.arange(start, 3) + 1).tolist() == list(range(start + 1, 4))
        view = IMAGES[0]
    assert view.untyped_storage()._cdata == IMAGES.untyped_storage()._cdata
    assert not layouts._results


def test_it_forgets(monkeypatch):
    monkeypatch.setattr(layouts, "MOST_OPERATIONS", 2)
    with Remembering():
        for size in range(1, 6):
            assert (on_meta(size) + 1).shape == (size,)
            assert len(layouts._results) <= 2
