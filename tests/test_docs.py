"""What the documentation says is what the code and the repository hold; the site itself is built by ``make docs``."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

import stepmask
from stepmask import BlockGraph, Site
from stepmask.cli import app
from stepmask.learning import registry
from stepmask.schedules import registry as schedule_registry
from tiny import ddim_pipeline

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("reference/api/", "reference/cli/")
"""Pages under docs/ that are only there when the site has been built."""
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PAGES = [page for page in PAGES if not str(page.relative_to(ROOT)).startswith(("docs/_build", "docs/reference/api"))]
PAGES = [page for page in PAGES if "docs/reference/cli" not in str(page) and not page.name.startswith("_")]


def test_the_table_of_architectures_is_up_to_date():
    made = runpy.run_path(str(DOCS / "make_architectures.py"))
    assert made["families"]() in (DOCS / "reference" / "architectures.md").read_text(encoding="utf-8"), (
        "run python docs/make_architectures.py"
    )


def test_the_table_of_what_works_with_what_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs/make_compatibility.py"))
    assert made["PAGE"].read_text() == made["page"](), "run python docs/make_compatibility.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "#")):
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path
        if there.resolve().is_relative_to(DOCS) and str(there.resolve().relative_to(DOCS)).startswith(MADE):
            continue
        assert there.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"
        if heading and there.suffix == ".md":
            assert heading in headings(there.read_text(encoding="utf-8")), f"{target} names no heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|lab|tests|docs|examples)/[\w./*-]+)`", text)
    missing = [name for name in named if not list(ROOT.glob(name.rstrip("/"))) and "_build" not in name]
    assert not missing, f"{page.relative_to(ROOT)} names {missing}"


def test_the_readme_is_short_and_its_table_is_that_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    results = (ROOT / "lab" / "results" / "results.md").read_text(encoding="utf-8")
    table = text.partition("<!-- the small table -->\n")[2].partition("<!-- its end -->")[0].splitlines()
    assert len(table) > 4
    for row in table:
        assert f"\n{row}\n" in results, f"{row} is not in lab/results/results.md"


def test_the_refusals_that_are_explained_are_in_the_code(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    import refusals

    try:
        sentences = [refusal.message for refusal in refusals.found()]
    finally:
        sys.modules.pop("refusals", None)
    text = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.split(r"^## ", text, flags=re.MULTILINE)
    explained = [
        quoted
        for part in tables
        if part.startswith(("Refusals", "Files"))
        for quoted in re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE)
    ]
    assert len(explained) > 20
    assert [quoted for quoted in explained if not any(quoted in sentence for sentence in sentences)] == []


def commands(program: str) -> list[list[str]]:
    """What pages tell to type in blocks of code: the words after the name of a program."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        for block in (code for language, code in blocks if language in ("", "text")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(f"{program} "):
                    found.append(shlex.split(line, comments=True)[1:])
    return found


def test_the_commands_that_pages_tell_to_type_exist():
    group = typer.main.get_command(app)
    typed = commands("stepmask")
    assert len(typed) > 15
    for verb, *words in typed:
        if verb == "VERB":
            continue
        known = {name for one in group.commands[verb].params for name in (*one.opts, *one.secondary_opts)}
        options = [word.partition("=")[0] for word in words if re.fullmatch(r"-{1,2}[a-z].*", word)]
        assert set(options) <= known | {"--help"}, f"stepmask {verb} {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_package_exist(page):
    text = page.read_text(encoding="utf-8")
    code = [
        *re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE),
        *re.findall(r"`([^`\n]+)`", text),
    ]
    named = {name for part in code for name in re.findall(r"(?<![\w./-])stepmask((?:\.\w+)+)", part)}
    named -= {".commands", ".schedules.warmup"}  # a group of entry points, and what a recipe adds
    assert [name for name in sorted(named) if not is_there(name)] == []


def is_there(name: str) -> bool:
    """Whether a dotted name below the package is a module, or something in one."""
    found = stepmask
    for part in name.removeprefix(".").split("."):
        if not hasattr(found, part):
            try:
                importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
        found = getattr(found, part)
    return True


def test_the_targets_of_make_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert {"demo", "test", "docs"} <= named <= targets


def recipe(beginning: str) -> str:
    """A block of code of CONTRIBUTING.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(beginning)]
    return block


def test_the_recipe_of_an_architecture_is_in_the_code():
    families = (ROOT / "src" / "stepmask" / "architectures" / "transformers.py").read_text(encoding="utf-8")
    assert families.endswith(recipe("@register"))


def test_the_recipe_of_a_schedule(monkeypatch):
    monkeypatch.setattr(schedule_registry, "_schedules", dict(schedule_registry._schedules))
    module: dict = {"__name__": "warmup"}
    exec(recipe('"""Warm-up'), module)
    graph = BlockGraph.branches([Site("0.attn1", "attention"), Site("0.ff", "mlp")])
    mask = module["warmup"](graph, range(7), first=2, interval=3)
    assert mask.compute.all(axis=1).tolist() == [True, True, True, False, False, True, False]
    assert stepmask.schedules.get("warmup") is module["warmup"]


def test_the_recipe_of_a_way_to_learn(monkeypatch):
    monkeypatch.setattr(registry, "_learners", dict(registry.learners()))
    module = ModuleType("spread")
    monkeypatch.setitem(sys.modules, "spread", module)
    exec(recipe('"""The method'), vars(module))
    pipe = ddim_pipeline()
    masks = [stepmask.learn(pipe, 4, 0.6, method=method) for method in ("spread", module.Spread(forecast=False))]
    assert [mask.is_binary for mask in masks] == [False, True]
    with pytest.raises(stepmask.TargetError, match="no interval up to 1"):
        stepmask.learn(pipe, 4, 0.6, method=module.Spread(longest=1))
    with pytest.raises(stepmask.StepMaskError, match="longest must be a number between 1 and 100"):
        module.Spread(longest=0)


def test_the_tree_has_every_module():
    made = runpy.run_path(str(DOCS / "make_tree.py"))
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = page.partition(made["BEGIN"])[2].partition(made["END"])[0]
    assert names_in(shown) == names_in(made["tree"]()), "run python docs/make_tree.py"


def names_in(tree: str) -> list[str]:
    """The files and folders of a tree, with how deep they lie."""
    return re.findall(r"^ *[\w/]+(?:\.py|/)(?= |$)", tree, flags=re.MULTILINE)


def without_code(text: str) -> str:
    """A page without its blocks of code and its code in a line."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub and the site make them, and those that the page names itself."""
    found = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}
    return anchors | set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.MULTILINE))
