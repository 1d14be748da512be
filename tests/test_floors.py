"""A file imports from lower floors or its own folder, the product never from the laboratory, and nothing in circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = {"stepmask": REPOSITORY / "src" / "stepmask", "stepmask_lab": REPOSITORY / "lab" / "src" / "stepmask_lab"}
FLOORS = {
    "stepmask": (
        (
            "errors", "values", "files", "hub", "timesteps", "nesting", "graph", "mask", "mask_file", "mask_tables",
            "printing", "recipe", "recipe_file", "resample", "cost", "family", "frontier", "plugins", "sources",
            "words",
        ),
        ("liveness", "gate"),
        ("schedules",),
        ("inspection",),
        ("architectures",),
        ("runtime", "presets"),
        ("learning", "evaluation", "pictures"),
        ("report", "optimisation"),
        ("cards",),
        ("cli",),
        ("__main__",),
    ),
    "stepmask_lab": (
        ("scores", "reference", "mac_counter", "schedules"), ("rivals", "method", "unmasked"), ("shipped",),
        ("benchmark",), ("pages",), ("reproduce",), ("cli", "plugin"),
    ),
}  # fmt: skip
"""From the ground up; a name is a file or a folder. The package's own ``__init__`` imports lazily and has no floor."""


class Import(NamedTuple):
    """One import: who, what by its full name, and whether at the top of the file."""

    importer: str
    imported: str
    on_top: bool


def modules(package: str) -> dict[str, Path]:
    """Files by module name."""
    root = SOURCES[package]
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (package, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


KNOWN = {name: path for package in SOURCES for name, path in modules(package).items()}


def imports(name: str) -> list[Import]:
    """What a file imports, at its top and within its functions."""
    tree = ast.parse(KNOWN[name].read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(name, alias.name, node in tree.body) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import, which this test does not follow"
            found += [Import(name, f"{node.module}.{alias.name}", node in tree.body) for alias in node.names]
    return found


IMPORTS = [one for name in KNOWN for one in imports(name)]


def module_of(imported: str) -> str | None:
    """The file that an import reads: of ``stepmask.mask.StepMask``, ``stepmask.mask``; None for other packages."""
    while imported and imported not in KNOWN:
        imported = imported.rpartition(".")[0]
    return imported or None


def edges(package: str) -> list[tuple[str, str]]:
    """Pairs of a file and one that it imports at its top, both of a package."""
    pairs = [(one.importer, module_of(one.imported)) for one in IMPORTS if one.on_top]
    inside = f"{package}."
    return sorted({(a, b) for a, b in pairs if a.startswith(inside) and b and b.startswith(inside) and a != b})


def test_the_product_knows_nothing_of_the_laboratory():
    strangers = [one for one in IMPORTS if one.importer.split(".")[0] == "stepmask" and "stepmask_lab" in one.imported]
    assert not strangers
    assert any(one.imported.startswith("stepmask.") for one in IMPORTS if one.importer.startswith("stepmask_lab."))


@pytest.mark.parametrize("package", SOURCES)
def test_every_part_has_a_floor(package):
    parts = {name.split(".")[1] for name in modules(package) if "." in name}
    assert parts == {part for floor in FLOORS[package] for part in floor}


@pytest.mark.parametrize("package", SOURCES)
def test_imports_point_down(package):
    floor_of = {part: floor for floor, parts in enumerate(FLOORS[package]) for part in parts}
    found = edges(package)
    assert len(found) > 30  # the parser sees imports at all
    parts = [(a, b, a.split(".")[1], b.split(".")[1]) for a, b in found]
    # the ground floor is one room: its files hold each other's values, and the test below finds circles
    assert not [
        f"{a} imports {b}" for a, b, above, below in parts if above != below and floor_of[below] >= floor_of[above] > 0
    ]


@pytest.mark.parametrize("package", SOURCES)
def test_no_circles(package):
    graph: dict[str, set[str]] = {}
    for name, other in edges(package):
        graph.setdefault(name, set()).add(other)
    assert list(TopologicalSorter(graph).static_order()), "a circle raises CycleError"


def test_what_is_private_stays_in_its_folder():
    """A name with an underscore in front may be imported by files of the folder that has it, and of those within."""
    found = []
    for one in IMPORTS:
        parts = one.imported.split(".")
        private = [i for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
        if private and module_of(one.imported):
            home = ".".join(parts[: private[0]])
            home = home if home in KNOWN and KNOWN[home].name == "__init__.py" else home.rpartition(".")[0]
            if not f"{one.importer}.".startswith(f"{home}."):
                found.append(f"{one.importer} imports {one.imported}")
    assert not found


@pytest.mark.parametrize("package", SOURCES)
def test_the_ways_to_learn_share_only_what_lies_beside_them(package):
    """Each is a folder that imports no other: whoever reads one need not read the rest."""
    folders = {"stepmask": ("learning", ("end_to_end", "paper")), "stepmask_lab": ("rivals", ("*",))}
    part, ways = folders[package]
    room = SOURCES[package] / part
    names = [path.name for path in room.iterdir() if (path / "__init__.py").exists()] if ways == ("*",) else ways
    homes = [f"{package}.{part}.{name}." for name in names]
    way_of = {name: next((home for home in homes if f"{name}.".startswith(home)), None) for name in KNOWN}
    assert set(homes) <= set(way_of.values())
    between = [(a, b) for a, b in edges(package) if way_of[a] and way_of[b] and way_of[a] != way_of[b]]
    assert not between
