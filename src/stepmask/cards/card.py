"""The card of what is shared: README.md as the Hugging Face hub shows it, with pictures beside it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepmask import pictures
from stepmask.cards.code import code_for
from stepmask.cards.sheet import Decision, Facts, Sheet, sheet_of
from stepmask.errors import StepMaskError
from stepmask.files import write_atomically, write_json

if TYPE_CHECKING:
    from stepmask.evaluation import Evaluation

CARD, MAP, SIDE_BY_SIDE, EVALUATION = "README.md", "map.png", "side_by_side.png", "evaluation.json"
"""Files beside what is shared."""
LIBRARY, TAGS = "stepmask", ["stepmask", "diffusers"]
RELATION = "adapter"
"""To the base model, as the hub calls it: what changes how a model runs and leaves its weights alone."""
WRITTEN_BY = "<!-- Written by stepmask, anew with each upload. Take this line out to keep a text of your own. -->"

NUM_IMAGES = 8
"""So many are sampled for a card where a pipeline is given."""
MOST_IMAGES, MOST_PIXELS = 16, 2_000_000
"""A picture shows at most so many images of each run, and so many pixels of them, but at least one image."""


def write_card(
    folder: Path,
    decision: Decision,
    source: str,
    *,
    base_model: str | None = None,
    license: str | None = None,
    pipe: Any = None,
    evaluation: Evaluation | None = None,
) -> None:
    """Write the card of a mask, family, recipe or frontier, its pictures and its evaluation into a folder.

    A card that is there already and was not written by stepmask is left as it is.

    Args:
        folder: It is there.
        decision: What the card is of.
        source: What users give `load` for it.
        base_model: Id of the model on the hub; by default what is recorded, or where `pipe` comes from.
        license: As the hub spells it, ``apache-2.0`` for example.
        pipe: A pipeline that fits: some images are sampled with and without the mask, for the picture, the numbers and
            the measured speed-up.
        evaluation: Those numbers and images, where they are there already.

    Raises:
        StepMaskError: The pipeline does not fit, or the evaluation is of other steps.
    """
    sheet, measured = sheet_of(decision), {}
    if pipe is not None:
        from stepmask.evaluation import evaluate
        from stepmask.inspection.origin import origin_of

        measured["origin"] = origin_of(pipe)
        evaluation = evaluation or evaluate(pipe, sheet.shown, seeds=NUM_IMAGES)
    if evaluation is not None:
        _check_evaluation(evaluation, sheet)
        measured |= evaluation.to_dict()
        write_json(folder / EVALUATION, measured)
        sheet = sheet_of(decision, measured)
        pictures.save_png(_side_by_side(evaluation), folder / SIDE_BY_SIDE)
    drawn = _draw_map(sheet, folder)
    base_model = _checked_id(base_model or sheet.record.get("base_model"))
    if not is_foreign(folder / CARD):
        text = _text(sheet, source, base_model, drawn, evaluation is not None)
        write_atomically(folder / CARD, _with_header(text, base_model, license))


def is_foreign(card: Path | None) -> bool:
    """Whether there is a card, and somebody else has written it."""
    return card is not None and card.exists() and WRITTEN_BY not in card.read_text(encoding="utf-8", errors="replace")


def _checked_id(base_model: str | None) -> str | None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if base_model is None:
        return None
    try:
        validate_repo_id(base_model)
    except HFValidationError as error:
        raise StepMaskError(
            f"base_model is the id of a model on the hub, user/name, got {base_model!r:.200}"
        ) from error
    return base_model


def _check_evaluation(evaluation: Any, sheet: Sheet) -> None:
    if not hasattr(evaluation, "to_dict") or not hasattr(evaluation, "masked"):
        raise StepMaskError(f"evaluation is what stepmask.evaluate returns, got {type(evaluation).__name__}")
    steps = sheet.shown.num_inference_steps
    if evaluation.num_inference_steps != steps:
        raise StepMaskError(
            f"the evaluation is of {evaluation.num_inference_steps} steps, the {sheet.shown.kind} of {steps}: evaluate "
            "what you share"
        )


def _side_by_side(evaluation: Evaluation) -> Any:
    """The first images of both runs; of videos the frame in the middle."""
    full, masked = evaluation.full, evaluation.masked
    if full.ndim == 5:
        full, masked = full[:, full.shape[1] // 2], masked[:, masked.shape[1] // 2]
    count = max(1, min(MOST_IMAGES, MOST_PIXELS // (full.shape[-1] * full.shape[-2])))
    notes = ("", f"{evaluation.macs_fraction:.1%} of the MACs, same seeds")
    return pictures.side_by_side(full, masked, notes=notes, limit=count)


def _draw_map(sheet: Sheet, folder: Path) -> bool:
    """Draw what the mask decides, where there is one and matplotlib is installed."""
    if sheet.mask is None:
        return False
    try:
        pictures.save_png(pictures.grid(sheet.mask), folder / MAP)
    except StepMaskError as error:
        warnings.warn(f"the card has no map of the mask: {error}", stacklevel=4)
        return False
    return True


def _with_header(text: str, base_model: str | None, license: str | None) -> str:
    """The card with the header that the hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    relation = {} if base_model is None else {"base_model_relation": RELATION}
    data = ModelCardData(library_name=LIBRARY, base_model=base_model, license=license, tags=list(TAGS), **relation)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _text(sheet: Sheet, source: str, base_model: str | None, has_map: bool, has_images: bool) -> str:
    """The card below its header."""
    sampling = f"[{base_model}](https://huggingface.co/{base_model}) sample" if base_model else "sampling"
    whose = "its weights" if base_model else "the model's weights"
    parts = [
        WRITTEN_BY,
        f"# {source}",
        f"{sheet.summary} It makes {sampling} faster, with {whose} untouched.",
    ]
    if has_images:
        parts.append(f"![The same noise with the full model, left, and under the mask, right]({SIDE_BY_SIDE})")
    parts += ["## How to use it", f"```python\n{code_for(sheet, source, base_model)}\n```"]
    parts.append(
        "`apply` refuses a pipeline, a scheduler or a number of steps that does not fit. The file is JSON: nothing in "
        "it is executed."
    )
    parts += ["## Numbers", _table([("", ""), *sheet.facts])]
    if sheet.members:
        parts.append(_table(sheet.members))
    if has_map:
        at = "" if sheet.at is None else f" (of the one at {sheet.at:g})"
        parts += [f"## What it decides{at}", f"![Every site at every step]({MAP})"]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]] | Facts) -> str:
    """Rows as a table in Markdown, the first with the headings."""
    lines = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
