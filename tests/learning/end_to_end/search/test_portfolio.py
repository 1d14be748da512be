"""What a search starts from: neighbours of key steps."""

from stepmask import describe
from stepmask.learning.end_to_end.search.portfolio import coarse_steps, moved_steps
from stepmask.mask import Action
from tiny import tiny_model


def test_moved_steps_keep_their_number_order_and_the_first():
    found = [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=0)]
    alone = {(0, 1, 3, 6), (0, 2, 4, 6), (0, 2, 3, 5), (0, 2, 3, 7)}
    with_later = {(0, 1, 2, 5), (0, 3, 4, 7), (0, 2, 4, 7)}
    assert set(found) == alone | with_later and len(found) == len(set(found))
    assert found != [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=1)]
    assert list(moved_steps((0,), 8, seed=0)) == []


def test_key_steps_keep_to_the_target_where_their_costs_lie_on_no_line():
    costs, graph = {1: 0.4, 2: 0.6, 3: 0.73, 4: 0.84}, describe(tiny_model("DiTTransformer2DModel"))

    def number(mask) -> int:
        return len(mask.provenance["steps"])

    for target, expected in ((0.73, 3), (0.72, 2), (0.1, 1)):
        found = coarse_steps(graph, [4, 3, 2, 1], (Action.hold,), target, lambda mask: costs[number(mask)])
        assert {number(mask) for mask in found} == {expected}


def test_shallow_steps_are_for_unets():
    transformer, unet = (describe(tiny_model(name)) for name in ("DiTTransformer2DModel", "UNet2DModel"))
    asked = list(range(20)), (Action.hold,), 0.2, lambda mask: mask.compute.all(1).mean()
    assert not list(coarse_steps(transformer, *asked, shallow=True))
    found = [mask.provenance for mask in coarse_steps(unet, *asked, shallow=True)]
    assert {len(facts["steps"]) for facts in found} == {4} and all(
        facts["steps"][0] < facts["shallow"][0] < facts["steps"][1] for facts in found
    )
    dense = coarse_steps(unet, list(range(4)), *asked[1:2], 1.0, asked[3], shallow=True)
    assert not list(dense), "there is no room between the first two"
