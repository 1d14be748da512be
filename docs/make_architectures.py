"""Writes docs/reference/architectures.md from the registry, the presets and the table of pipeline tests.

Run ``python docs/make_architectures.py`` after adding one of them; a test compares the first table with what is there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests/pipelines")]

HEAD = """\
# Architectures

This page is made by `python docs/make_architectures.py`; do not edit it.

A family is found by the class of the denoiser. Every family passes the contract suite (`tests/contract`):

- An all-ones mask is bitwise the plain model.
- Masked runs are bitwise an obvious reference, with and without elimination.
- Every computation that survives elimination matters.
- Leaving a mask restores every module.

*Verified* pipelines of diffusers run masks unchanged and bitwise in `tests/pipelines`, at several batch sizes and
resolutions, with guidance as they have it. Where two denoisers take turns (Wan 2.2), a row of the mask belongs to the
one that runs at that step. The first row of the second one computes in full. Schedules run there; learning is refused.

"""
OTHERS = """
## Other denoisers of diffusers

A pipeline whose denoiser is of none of these classes mostly needs nothing more. What its denoiser is called with is
seen by starting a run. Sites are told by the parts of its blocks. Who reads whom is traced. What a trace refuses, or
does not see run, is left out. Where the call needs more than a prompt, say so once, as
`stepmask.register_sites(pipe, call_kwargs={...})`. `stepmask describe MODEL` shows what was found, and which share of
the MACs it covers. A bare denoiser, from diffusers or not, needs sites and example inputs:
[your own model](../guides/your-own-model.md).

The table has what is found in models of diffusers DIFFUSERS as they are configured by default, and which share of their
parameters lies in sites. `tests/pipelines/test_strangers.py` verifies these as above:
VERIFIED.
These were tried once in the same way, with tiny random models: LTX 2, Kandinsky 5, HunyuanImage, Cosmos Predict 2, Sana
Video, LongCat Image, Ovis Image, PRX, Bria, SkyReels V2, CogView 3+. Wan VACE and guided PRX ran one image at a time,
which is all that their pipelines take. The others were not tried. HiDream is refused, because its experts are chosen by
the values that come in. Where sites are wrong or too few, name them.

"""
PRESETS = """
## Presets

Presets are published configurations on the meta device. `stepmask describe preset:NAME` shows one. Numbers are per
image and step, without guidance.

- *Conv + linear* leaves out the products of attention.
- *Coverage* is the share of the MACs that lies in sites.
- *Ceiling* bounds the speed-up: it is what would be left if all sites were held at every step.
- *Cache* is the size of all values of innermost sites that masks decide on, in float16.
- *One value* is the size of the largest that passes between the outermost sites, in float16.

"""


def families() -> str:
    """One row per family: sites by what they are, guidance as the tests have it, verified pipelines."""
    from cases import verified

    from stepmask.inspection.registry import registered_architectures

    by_class: dict[str, list] = {}
    for row in verified():
        by_class.setdefault(row.denoiser, []).append(row)
    lines = ["| class | sites | guidance | verified pipelines |", "|---|---|---|---|"]
    for name, family in sorted(registered_architectures().items(), key=lambda item: (item[0] not in by_class, item[0])):
        rows = by_class.get(name, [])
        guidance = ", ".join(dict.fromkeys(row.guidance for row in rows if row.guidance != "none")) or "–"
        pipelines = "; ".join(row.name for row in rows) or "contract suite only"
        lines.append(f"| `{name}` | {_sites(family)} | {guidance} | {pipelines} |")
    return "\n".join(lines) + "\n"


def others() -> str:
    """One row per denoiser of diffusers that no family knows and that can be made without arguments."""
    import diffusers
    import torch
    from strangers import STRANGERS

    from stepmask.inspection.guess import guessed_sites

    lines = ["| class | sites | parameters in sites |", "|---|---|---|"]
    for name in sorted(dir(diffusers)):
        class_ = getattr(diffusers, name)
        denoises = re.search(r"(Transformer\w*|UNet\w*|DiTModel)$", name) and not re.search("Prior|Proteina", name)
        if not denoises or not isinstance(class_, type) or _is_known(name):
            continue
        try:
            with torch.device("meta"):
                model = class_()
            sites = guessed_sites(model)
        except Exception:  # made from something else, or a part of a model
            continue
        modules = dict(model.named_modules())
        inside = sum(p.numel() for site in sites for p in modules[site].parameters())
        share = inside / sum(p.numel() for p in model.parameters())
        lines.append(f"| `{name}` | {_by_list(sites)} | {share:.0%} |")
    known = "; ".join(case.name for case in STRANGERS)
    head = OTHERS.replace("DIFFUSERS", diffusers.__version__).replace("VERIFIED", known)
    return head + "\n".join(lines) + "\n"


def _is_known(name: str) -> bool:
    from stepmask.inspection.registry import registered_architectures

    return name in registered_architectures() or "ControlNet" in name


def _by_list(names: Iterable[str]) -> str:
    """Sites by the list of blocks that they are in."""
    found: dict[str, dict[str, None]] = {}
    for name in names:
        blocks, _, part = re.sub(r"\.\d+(?=\.|$)", ".*", name).rpartition(".*.")
        found.setdefault(blocks, {})[f"`{part.removesuffix('.*')}`"] = None
    return "; ".join(f"{blocks}: {', '.join(parts)}" if blocks else ", ".join(parts) for blocks, parts in found.items())


def presets() -> str:
    """One row per preset, measured."""
    from stepmask import describe, measure_cost
    from stepmask.presets import load, names

    lines = [
        "| preset | sites | parameters, M | MACs, G | conv + linear, G | coverage | ceiling | cache, MiB "
        "| one value, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names():
        model = load(name)
        graph, cost = describe(model), measure_cost(model)
        size = cost.value_bytes * 2 / next(model.parameters()).dtype.itemsize
        kept, one = size[list(graph.level("branch"))].sum(), size[list(graph.level("stack"))].max()
        cells = (
            f"`{name}`",
            f"{len(graph.innermost)}",
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
            f"{cost.step_macs / 1e9:.5g}",
            f"{cost.conv_linear().step_macs / 1e9:.5g}",
            f"{cost.coverage:.1%}",
            f"{1 / (1 - cost.coverage):.0f}x",
            f"{kept / 2**20:.4g}",
            f"{one / 2**20:.3g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sites(family) -> str:
    import diffusers

    from tiny_configs import TINY

    model = getattr(diffusers, family.class_name)(**TINY[family.class_name])
    modules = dict(model.named_modules())
    if family.patterns:
        return _by_list(family.graph(model).innermost.names)
    classes = dict.fromkeys(type(modules[name]).__name__ for name in family.graph(model).innermost.names)
    return ", ".join(f"`{name}`" for name in classes)


if __name__ == "__main__":
    (ROOT / "docs/reference/architectures.md").write_text(
        HEAD + families() + others() + PRESETS + presets(), encoding="utf-8"
    )
