"""A file imports from lower floors or its own folder only, and no imports run in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import stepmask

ROOT = Path(stepmask.__file__).parent
FLOORS = (
    {
        "errors",
        "_files",
        "_hub",
        "_mask_file",
        "_mask_tables",
        "_resample",
        "_timesteps",
        "mask",
        "family",
        "graph",
        "cost",
    },
    {"liveness", "schedules"},
    {"architectures"},
    {"runtime", "presets"},
    {"learning", "evaluation", "reference"},
    {"benchmark", "report"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def files():
    """Module name -> file, of all but the package's own __init__, which imports lazily."""
    paths = sorted(ROOT.rglob("*.py"))
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items() if name != "__init__"}


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Modules of stepmask that a file imports at module level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("stepmask.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import, which this test does not follow"
            module = node.module.removeprefix("stepmask.")
            names = {alias.name if module == "stepmask" else f"{module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else module for name in names}
    return found & known - {name}


def test_every_part_has_a_floor():
    assert {name.split(".")[0] for name in files()} <= set(FLOOR_OF)


def test_imports_point_down():
    known = files()
    edges = [(name, other) for name, path in known.items() for other in imports(name, path, set(known))]
    assert len(edges) > 30  # the parser sees imports at all
    up = []
    for name, other in edges:
        above, below = FLOOR_OF[name.split(".")[0]], FLOOR_OF[other.split(".")[0]]
        same_folder = name.split(".")[0] == other.split(".")[0] or above == below == 0
        if below > above or (below == above and not same_folder):
            up.append(f"{name} imports {other}")
    assert not up


def test_the_ways_to_learn_share_only_what_lies_beside_them():
    known = files()
    names = ("end_to_end", "per_step", "full_chain", "genetic", "calibrated")
    ways = tuple(f"learning.{name}" for name in names)
    way_of = {name: way for name in known for way in ways if f"{name}.".startswith(f"{way}.")}
    assert set(way_of.values()) == set(ways)
    edges = [(name, other) for name in known for other in imports(name, known[name], set(known)) if other in way_of]
    above = {"learning", "learning.entry"}  # these hand on to them
    inside = [edge for edge in edges if edge[0].startswith("learning") and edge[0] not in above]
    assert not [f"{name} imports {other}" for name, other in inside if way_of.get(name) != way_of[other]]


def test_no_circles():
    known = files()
    graph = {name: imports(name, path, set(known)) for name, path in known.items()}
    assert set(TopologicalSorter(graph).static_order()) >= set(known), "a circle raises CycleError"
