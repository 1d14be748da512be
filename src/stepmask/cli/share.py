"""stepmask share: a mask, family, recipe or frontier with its card, on the hub, in a registry or in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stepmask.cli.common import arguments as shared
from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.call_arguments import Call, Guidance, call_kwargs
from stepmask.cli.common.models import load
from stepmask.cli.common.output import runs_bar
from stepmask.errors import StepMaskError
from stepmask.hub import HUB, REGISTRY, is_repo_id
from stepmask.sources import load as load_any


@app.command()
def share(
    what: Annotated[
        Path, typer.Argument(metavar="WHAT", help="File with a mask, a family, a recipe or a frontier, or its folder.")
    ],
    where: Annotated[
        str,
        typer.Argument(
            metavar="USER/NAME",
            help=f"Repository on the hub, which is made where there is none. Where the environment has {REGISTRY}, the "
            f"folder of that name in there; {HUB}USER/NAME is the hub in any case.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The model that it is for: the card then has pictures, numbers and the speed-up."),
    ] = None,
    num_images: shared.NumImages = 8,
    speed: shared.Speed = True,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="USER/NAME", help="Id of the model on the hub. The default is the one that learning has recorded."
        ),
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="License of the mask as the hub spells it, such as apache-2.0.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    guidance_scale: Guidance = None,
    conditions: shared.Conditions = None,
    call: Call = None,
    device: shared.Device = None,
    dtype: shared.Precision = None,
) -> None:
    """Share a mask under a name that apply takes, with a card: what it is for, what it reaches, and how to use it.

    The hub asks for a login first: hf auth login. A card that somebody else has written is left as it is.

        stepmask share mask.json me/sd15-half --model runwayml/stable-diffusion-v1-5 --license apache-2.0

        STEPMASK_REGISTRY=/team/masks stepmask share family.json team/flux-20
    """
    import stepmask
    from stepmask.cards.sheet import sheet_of

    name = where.removeprefix(HUB)
    if not is_repo_id(name):
        raise StepMaskError(f"a name to share under is USER/NAME, such as me/my-mask, got {where!r:.200}")
    decision, about = load_any(what), {"base_model": base_model, "license": license_}
    if model is not None:
        shown = sheet_of(decision).shown
        pipe = load(model, mask=shown, device=device, dtype=dtype)
        with runs_bar("sampling for the card") as tell:
            evaluation = stepmask.evaluate(
                pipe,
                shown,
                seeds=num_images,
                call_kwargs=call_kwargs(guidance_scale, call),
                conditions=conditions,
                speed=speed,
                progress=tell,
            )
        about |= {"pipe": pipe, "evaluation": evaluation}
    registry = None if where.startswith(HUB) else os.environ.get(REGISTRY)
    if registry:
        done = decision.save_pretrained(Path(registry) / name, **about)
    else:
        done = decision.push_to_hub(name, private=private or None, **about)
    stdout().print(f"{done}\nstepmask.apply(pipe, {name!r}) uses it", soft_wrap=True, markup=False)
