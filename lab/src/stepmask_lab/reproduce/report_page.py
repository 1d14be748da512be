"""Results of a reproduction as Markdown: the paper's number beside ours, and what may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepmask_lab.reproduce.paper import (
    CONSISTENCY,
    DEEPCACHE,
    DIFF_PRUNING,
    DIP_GO,
    DITFASTATTN,
    FEWER,
    FORA,
    L2C,
    MASKING,
    ORIGINAL,
    SOURCE,
)
from stepmask_lab.reproduce.table_lines import OURS

COMPARABLE = f"""\
What can be compared with {SOURCE}, and what cannot:

- **MACs at full size can.** They are counted on the published architectures, at the paper's number of steps, in its
  convention and without guidance. *Conv+lin* leaves out the products of attention, *full* has them. *Agrees* means
  within 0.5%, or the same number when printed with as many digits. The paper does not print the setting of DeepCache.
  The table takes the one of its published settings whose MACs are the paper's. *Ours* leaves unchanged inputs out;
  *dead only* does not, as DeepCache counts. The paper prints neither FORA's interval nor its MACs.
- **Speed-ups can, as ratios.** The paper's are of its accelerator. Ours are of the denoiser, full and masked runs made
  in turns.
- **FID, IS, sFID and CLIP cannot.** Our models are small and our images few. In their place stand PSNR (± its standard
  error) and SSIM against the full run from the same noise. *Fd* and *IS* are on the features of a small CIFAR-10
  classifier. They depend on the number of images and are no FIDs.
- **The paper's learner can only at its own setting.** Here it has the steps and the training runs (`--trajectories`)
  of the command above. The paper samples 50 to 250 steps; 20 steps and 8 runs are far below that.
- **MACs of the reference models** are shares of their own full run, of the plan that runs, with guidance:
  *full / conv+lin*.
- **Time to learn cannot.** The models and the machines are others. For models that were pruned or distilled it is the
  training of their weights.
"""
NOT_RUN = dict.fromkeys((DIFF_PRUNING, CONSISTENCY), "not run: there is none of this model")
LABELS = {
    ORIGINAL: "original",
    MASKING: "**block masking**, the paper's learner as we read it",
    OURS: '**ours**, `method="end-to-end"`',
    L2C: "Learning-to-Cache, our reading",
    DITFASTATTN: "DiTFastAttn, its output sharing",
    DIP_GO: "DiP-GO, our reading",
    DIFF_PRUNING: "Diff-Pruning, trained on",
    CONSISTENCY: "consistency model",
}
SETTINGS = {DEEPCACHE: "{}", FORA: "{}", FEWER: "{}", DIP_GO: "{} of the MACs", CONSISTENCY: "steps: {}"}
"""What the label of a line says of its setting, by method; nothing where it is the paper's share of the MACs."""
NOTHING = "–"


def page(results: Mapping[str, Mapping[str, Any]], commands: str) -> str:
    """All tables on one page.

    Args:
        results: By table, as `tables` makes them, and the figures.
        commands: That made them, as Markdown.
    """
    heading = f"# The paper's tables, and ours\n\nMade by {commands}; raw results are `results/reproduce-*.json`.\n"
    return "\n".join([heading, COMPARABLE, *(SECTIONS[name](result) for name, result in results.items())])


def comparison_section(result: Mapping[str, Any]) -> str:
    """One of Tables 1 to 3."""
    parts = [f"## {TITLES[result['table']]}\n"]
    for model in result["models"]:
        counted = f"preset `{model['preset']}`, T per image, the paper's convention is {model['convention']}"
        parts += [f"### {model['name']}\n", f"MACs at full size: {counted}.\n", _full_size(model["full_size"])]
        if model["measured"] is None:
            why = "No reference model stands for this one" if result["options"] else "Nothing was sampled"
            parts += [f"{why}. The paper:\n", _printed_lines(model["paper"])]
        else:
            parts += [
                f"Measured on {model['measured']} with {model['measured_steps']} steps (the paper: {model['steps']}); "
                f"masks at the paper's share of the MACs, {model['share']:g}.\n",
                _side_by_side(model),
                _circumstances(model["circumstances"]),
            ]
    return "\n".join(parts)


def ablation_section(result: Mapping[str, Any]) -> str:
    """Table 4 or 5."""
    head = ["", "paper: speed-up", "paper: FID", *OUR_COLUMNS, "fd", "scores decided", "minutes to learn"]
    lines = []
    for line in result["lines"]:
        paper, ours = line["paper"] or {}, line["ours"] or {}
        printed = [_number(paper.get("speedup"), ".2fx"), _number(paper.get("fid"), ".2f")]
        more = [_number(ours.get("decided"), ".0%"), _minutes(ours)]
        lines.append([line["line"], *printed, *_measured(ours, ("fd_cifar",)), *more])
    parts = [f"## {TITLES[result['table']]}\n"]
    if "model" in result:
        parts.append(
            f"Measured on {result['model']} with {result['steps']} steps (the paper: 100). The paper fixes its penalty "
            "and prints speed and FID; here every mask that is learned meets the same share of the MACs, "
            f"{result['share']:g}, and PSNR differs. One learning seed: two of the same learner differ by some dB. "
            "*Scores decided* are within 0.1 of 0 or 1.\n"
        )
    else:
        parts.append("Nothing was sampled. The paper:\n")
    parts.append(_table(head, lines))
    parts += [_circumstances(result["circumstances"])] if "circumstances" in result else []
    parts += [_rectification(result["rectification"])] if "rectification" in result else []
    return "\n".join(parts)


def figure_section(result: Mapping[str, Any]) -> str:
    """The figures, whose files lie in ``images/``."""
    made_of = (
        f"A mask of the paper's learner for {result['model']}, {result['steps']} steps, {result['macs']:.1%} of the "
        "MACs after exact elimination; similarity of steps is that of the full run.\n"
    )
    figures = [f"{words}.\n\n![{words}](images/{file})\n" for words, file in result["figures"]]
    return "\n".join(["## Figures\n", made_of, *figures])


def _full_size(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        name = "original" if row["method"] == ORIGINAL else row["method"]
        label = ", ".join(filter(None, (name, row["setting"])))
        macs = [_number(row["paper"], "g"), f"{row['macs']:.4g}", f"{row['dead_only']:.4g}"]
        both = f"{row['conv_linear']:.4g} / {row['full']:.4g}"
        agrees = {None: NOTHING, True: "yes", False: "no"}[row["agrees"]]
        lines.append([label, str(row["steps"]), *macs, both, agrees])
    return _table(["", "steps", "paper", "ours", "dead only", "conv+lin / full", "agrees"], lines)


PAPER_COLUMNS = ("paper: MACs in T", "paper: speed-up", "paper: quality", "paper: hours to learn")
OUR_COLUMNS = ("MACs, full / conv+lin", "speed-up", "PSNR", "SSIM")


def _printed_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [["original" if row["method"] == ORIGINAL else row["method"], *_printed(row)] for row in rows]
    return _table(["", *PAPER_COLUMNS], lines)


def _side_by_side(model: Mapping[str, Any]) -> str:
    printed = {row["method"]: row for row in model["paper"]}
    ours: dict[str, list[Mapping[str, Any]]] = {}
    for row in model["rows"]:
        ours.setdefault(row["method"], []).append(row)
    lines = []
    for method in [*printed, *(name for name in ours if name not in printed)]:
        for row in ours.get(method, [{}]):
            notes = [SETTINGS[method].format(row["setting"])] if method in SETTINGS and row else []
            notes += [] if row else [NOT_RUN.get(method, "not run")]
            label = ", ".join([LABELS.get(method, method), *notes])
            measured = _measured(row, ("fd_cifar", "is_cifar"))
            lines.append([label, *_printed(printed.get(method, {})), *measured, _minutes(row)])
    return _table(["", *PAPER_COLUMNS, *OUR_COLUMNS, "fd", "IS", "minutes to learn"], lines)


def _printed(row: Mapping[str, Any]) -> list[str]:
    """MACs, speed-up, scores and hours of a line of the paper."""
    quality = ", ".join(f"{name} {value:g}" for name, value in row.get("quality", {}).items()) or NOTHING
    macs = _number(row.get("macs"), "g")
    if row.get("steps"):
        macs = f"{macs} at {row['steps']} steps".removeprefix(f"{NOTHING} ")
    return [macs, _number(row.get("speedup"), ".2fx"), quality, _number(row.get("train_hours"), "g")]


def _measured(row: Mapping[str, Any], scores: Sequence[str]) -> list[str]:
    """MACs, speed-up, PSNR, SSIM and scores of a line of ours."""
    if not row:
        return [NOTHING] * (len(OUR_COLUMNS) + len(scores))
    lean = row["macs"] if row.get("conv_linear") is None else row["conv_linear"]
    found = row.get("scores") or {}
    error = "" if row.get("psnr_sem") is None else f" ± {row['psnr_sem']:.1f}"
    return [
        f"{row['macs']:.3f} / {lean:.3f}",
        _number((row.get("speed") or {}).get("denoiser_speedup"), ".2fx"),
        "the same" if row["psnr_mean"] >= 100 else f"{row['psnr_mean']:.1f}{error}",
        _number(row.get("ssim_mean"), ".4f"),
        *(_number(found[name]["value"] if name in found else None, ".3g") for name in scores),
    ]


def _rectification(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        for name, plan in row["plans"].items():
            same = plan["relative_l2"] == 0
            psnr = "bitwise the same" if same else f"{plan['psnr_to_mask']:.1f}"
            macs = f"{plan['macs']:.3f} / {plan['conv_linear']:.3f}"
            change = ["0" if same else f"{plan['relative_l2']:.3g}", f"{plan['psnr']:.1f}"]
            lines.append([f"{row['model']}, {row['mask']}", name, str(plan["computes"]), macs, psnr, *change])
    head = ["model, mask", "plan", "cells that compute", OUR_COLUMNS[0]]
    head += ["PSNR to the mask as decided", "relative L2 to it", "PSNR to the full run"]
    words = (
        "### Eq. 12 as printed against exact elimination\n\n"
        "Both are given the same mask: the paper's learner's, and a random one in which a cell computes with chance "
        "0.5. Elimination shall not change the output. Eq. 12 changes it where a value has other readers than the next "
        f"site, and leaves work behind (docs/concepts/elimination.md). {rows[0]['num_images']} images.\n"
    )
    return "\n".join([words, _table(head, lines)])


def _circumstances(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    guidance = "" if facts["guidance_scale"] is None else f", guidance {facts['guidance_scale']:g}"
    seeds = facts["seeds"]
    images = f"{len(seeds)} images, seeds {seeds[0]} to {seeds[-1]}"
    machine = f"{facts['dtype']} on {facts['device']}"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['pipeline']} with {facts['scheduler']}{guidance}; {images}; {machine}; {versions}.\n"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"


def _number(value: float | None, form: str) -> str:
    """A number, with an x behind it where the form ends so; a dash where there is none."""
    return NOTHING if value is None else format(value, form.removesuffix("x")) + form[len(form.removesuffix("x")) :]


def _minutes(row: Mapping[str, Any]) -> str:
    seconds = row.get("train_seconds")
    return NOTHING if seconds is None else f"{seconds / 60:.1f}"


TITLES = {
    "table1": "Table 1: DDPM",
    "table2": "Table 2: LDM-4-G and DiT-XL/2",
    "table3": "Table 3: PixArt-Sigma",
    "table4": "Table 4: how scores are relaxed, and other choices of the learner",
    "table5": "Table 5: what is left out; Eq. 12",
}
SECTIONS = {
    **{table: comparison_section for table in ("table1", "table2", "table3")},
    **{table: ablation_section for table in ("table4", "table5")},
    "figures": figure_section,
}
