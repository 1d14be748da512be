"""Tables of sites and of what they cost, for `stepmask describe`. Knows graphs and costs, no models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stepmask.cost import CostTable
from stepmask.graph import OUT, BlockGraph, Site
from stepmask.nesting import outline

FEW = 50
"""Up to so many sites, each has a row of its own."""


def sites_table(title: str, graph: BlockGraph, cost: CostTable, every: bool) -> Any:
    """Sites with their shares of the MACs: each with its readers, or equal ones of all blocks together.

    What contains others comes before those, which are set in; its MACs are those that it does itself.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    shares, always = cost.shares()
    level = ["level"] if any(site.depth is not None for site in graph.sites) else []
    columns = ["read by"] if every else ["count", "MACs each"]
    _columns(table, "site" if every else "sites", "kind", *level, *columns, "MACs")
    rows = [[index] for index in range(len(graph))] if every else groups(graph.sites, cost.macs)
    members_of = {members[0]: members for members in rows}
    for first, nested in outline(graph.names):
        if first not in members_of:
            continue
        members = members_of[first]
        site = graph.sites[first]
        depth = ["" if site.depth is None else str(site.depth)] if level else []
        if every:
            label, cells = f"{first:>2} {'  ' * nested}{site.name}", [_read_by(graph, first)]
        else:
            label = "  " * nested + spanned([graph.names[member] for member in members])
            cells = [str(len(members)), f"{shares[first]:.2%}"]
        table.add_row(label, site.kind, *depth, *cells, f"{shares[members].sum():.1%}")
    table.add_row(
        Text("outside of all sites, always runs", style="dim"), *[""] * len([*level, "kind", *columns]), f"{always:.1%}"
    )
    return table


def cost_table(graph: BlockGraph, cost: CostTable) -> Any:
    """MACs, coverage and ceiling in both conventions."""
    from rich.table import Table

    table = Table()
    _columns(table, "", "full", "conv + linear")
    tables, blocks = (cost, cost.conv_linear()), list(graph.level("branch"))
    table.add_row("MACs", *(amount(one.step_macs) for one in tables))
    decided = [one.shares()[0][blocks].sum() for one in tables]
    table.add_row("covered by the innermost sites that masks decide on", *(f"{share:.1%}" for share in decided))
    if len(blocks) < len(graph):
        table.add_row("covered with all that contains them", *(f"{one.coverage:.1%}" for one in tables))
    table.add_row("most speed-up, of a step that computes no site", *(_ceiling(one) for one in tables))
    return table


def groups(sites: Sequence[Site], macs: Sequence[float]) -> list[list[int]]:
    """Indices of sites that differ in the last number of their name alone, by first appearance."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, site in enumerate(sites):
        before, _, after = _split(site.name)
        found.setdefault((before, after, site.kind, site.depth, float(macs[index])), []).append(index)
    return list(found.values())


def spanned(names: Sequence[str]) -> str:
    """One name for several that differ in their last number alone: ``blocks.0-27.attn1``."""
    before, _, after = _split(names[0])
    span = ",".join(_spans(number for _, number, _ in map(_split, names) if number is not None))
    return ".".join([*before, *([span] if span else []), *after])


def amount(count: float) -> str:
    """A large number, in millions, billions or more."""
    power, unit = next((p for p in ((1e12, "T"), (1e9, "G")) if count >= p[0]), (1e6, "M"))
    return f"{count / power:.5g} {unit}"


def mib(size: float) -> str:
    """Bytes in MiB."""
    size /= 2**20
    return f"{size:.3g} MiB" if size < 1000 else f"{size:.0f} MiB"


def _spans(numbers: Iterable[int]) -> list[str]:
    """Ascending numbers in words, those without a gap between them together: ``["0-27", "30"]``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [f"{first}-{last}" if last > first else str(first) for first, last in spans]


def _split(name: str) -> tuple[tuple[str, ...], int | None, tuple[str, ...]]:
    parts = tuple(name.split("."))
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=None)
    return (parts, None, ()) if last is None else (parts[:last], int(parts[last]), parts[last + 1 :])


def _ceiling(cost: CostTable) -> str:
    always = cost.shares()[1]
    if always < 1e-9:
        return "no limit"
    return f"{1 / always:.0f} times" if always < 0.1 else f"{1 / always:.2f} times"


def _read_by(graph: BlockGraph, index: int) -> str:
    readers = graph.readers(index)
    return ", ".join([*["output"] * (OUT in readers), *_spans(reader for reader in readers if reader != OUT)])


def _columns(table: Any, *headings: str) -> None:
    words = ("site", "sites", "kind", "read by", "")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", overflow="fold")
