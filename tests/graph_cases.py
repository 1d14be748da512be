"""Small graphs and masks that tests write as rows of letters, and strategies that draw them."""

import numpy as np
from hypothesis import strategies as st

from stepmask import BlockGraph, Site, StepMask
from stepmask.graph import OUT
from stepmask.mask import Action


def sites(count: int, kind: str = "resnet") -> list[Site]:
    return [Site(f"b{i}", kind) for i in range(count)]


def mask_of(*rows: str, names: tuple[str, ...] | None = None, values: dict[int, int] | None = None) -> StepMask:
    return mask_from([["01l".index(cell) for cell in row] for row in rows], names, values)


def mask_from(actions, names: tuple[str, ...] | None = None, values: dict[int, int] | None = None) -> StepMask:
    """`values` says by site of how many values a forecast is a weighted sum."""
    actions = np.asarray(actions)
    names = names or tuple(f"b{i}" for i in range(actions.shape[1]))
    return StepMask(
        compute=actions == Action.compute, forecast=actions == Action.linear, sites=names,
        weights={names[site]: np.ones((len(actions), count, 1)) for site, count in (values or {}).items()},
        timesteps=range(len(actions), 0, -1),
    )  # fmt: skip


def values_of(mask: StepMask) -> dict[int, int]:
    """By site of how many values its forecasts are weighted sums."""
    return {mask.sites.index(site): table.shape[1] for site, table in (mask.weights or {}).items()}


def words(table: np.ndarray) -> list[str]:
    return ["".join(str(int(cell)) for cell in row) for row in table]


CHAIN, BRANCHES = BlockGraph.chain(sites(2)), BlockGraph.branches(sites(2))
# e1 -> e2 -> mid -> d, and d also reads e1
UNET = BlockGraph(tuple(sites(4)), ((1, 3), (2,), (3,), (OUT,)), (True,) * 4)
# a block of two branches, and a layer behind it
BLOCK = BlockGraph.chain(
    [Site("block.first", "mlp"), Site("block.second", "mlp"), Site("block", "block"), Site("behind", "mlp")]
)


@st.composite
def graphs(draw) -> BlockGraph:
    count = draw(st.integers(1, 6))
    readers = []
    for site in range(count):
        later = st.sets(st.sampled_from([OUT, *range(site + 1, count)]))
        readers.append(tuple(sorted(draw(later))))
    reads_step = tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return BlockGraph(tuple(sites(count)), tuple(readers), reads_step)


@st.composite
def cases(draw, actions=(Action.hold, Action.compute, Action.linear)) -> tuple[BlockGraph, StepMask]:
    graph = draw(graphs())
    row = st.lists(st.sampled_from(actions), min_size=len(graph), max_size=len(graph))
    table = [[Action.compute] * len(graph), *draw(st.lists(row, max_size=7))]
    values = draw(st.dictionaries(st.integers(0, len(graph) - 1), st.integers(2, 4)))
    return graph, mask_from(table, graph.names, values)
