"""What a search starts from: neighbours of key steps."""

from stepmask.learning.end_to_end.search.portfolio import moved_steps


def test_moved_steps_keep_their_number_order_and_the_first():
    found = [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=0)]
    alone = {(0, 1, 3, 6), (0, 2, 4, 6), (0, 2, 3, 5), (0, 2, 3, 7)}
    with_later = {(0, 1, 2, 5), (0, 3, 4, 7), (0, 2, 4, 7)}
    assert set(found) == alone | with_later and len(found) == len(set(found))
    assert found != [tuple(steps) for steps in moved_steps((0, 2, 3, 6), 8, seed=1)]
    assert list(moved_steps((0,), 8, seed=0)) == []
