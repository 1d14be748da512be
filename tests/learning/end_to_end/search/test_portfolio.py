"""What a search starts from: key steps that suit the budget, and their neighbours."""

from stepmask import BlockGraph, Site
from stepmask.learning.end_to_end.search.portfolio import moved_steps, spaced_steps
from stepmask.mask import Action


def test_key_steps_that_cost_as_much_as_the_target_and_one_more():
    """Whole steps of three equal sites: six of ten cost 0.6."""
    graph = BlockGraph.branches([Site(f"{i}.ff", "mlp") for i in range(3)])
    found = list(spaced_steps(graph, range(10), (Action.hold, Action.linear), 0.65, lambda mask: mask.compute.mean()))
    assert {round(mask.compute.mean(), 9) for mask in found} == {0.6, 0.7}
    assert all(not mask.is_binary for mask in found)
    binary = spaced_steps(graph, range(10), (Action.hold,), 0.65, lambda mask: mask.compute.mean())
    assert all(mask.is_binary for mask in binary)
    assert list(spaced_steps(graph, range(1), (Action.hold,), 1.0, lambda mask: mask.compute.mean())) == []


def test_moved_steps_keep_their_number_order_and_the_first():
    found = [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=0)]
    alone = {(0, 1, 3, 6), (0, 2, 4, 6), (0, 2, 3, 5), (0, 2, 3, 7)}
    with_later = {(0, 1, 2, 5), (0, 3, 4, 7), (0, 2, 4, 7)}
    assert set(found) == alone | with_later and len(found) == len(set(found))
    assert found != [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=1)]
    assert list(moved_steps((0,), 8, seed=0)) == []
