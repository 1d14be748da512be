"""stepmask describe: the sites of a model, who reads them, and what they cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stepmask import presets
from stepmask.cli._site_tables import FEW, amount, cost_table, mib, sites_table
from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import WHAT_MODELS
from stepmask.cli.common.call_arguments import Call, Guidance, call_kwargs
from stepmask.cli.common.models import load
from stepmask.errors import StepMaskError


@app.command()
def describe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{WHAT_MODELS}; or preset:NAME, a published configuration that needs no weights. Presets are "
            f"{', '.join(presets.names())}.",
        ),
    ],
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--sites",
            metavar="PATTERN",
            help="Take the submodules with such names for sites, '**.attn1' for example. * stands for one part of a "
            "dotted name, ** for any number of parts. May be given several times.",
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Show every site in a row of its own, with the sites that read it, even if there are more than "
            f"{FEW}.",
        ),
    ] = False,
    guidance_scale: Guidance = None,
    call: Call = None,
) -> None:
    """List the sites of MODEL, the blocks that a mask decides on, and what each costs."""
    import stepmask
    from stepmask.inspection.architecture import Given
    from stepmask.inspection.describe import description_of

    given, name = call_kwargs(guidance_scale, call), model.removeprefix(presets.PREFIX)
    if name == model:
        pipe, preset = load(model, device="cpu"), None
    elif given:
        raise StepMaskError(
            f"{model} is a denoiser without a pipeline: its MACs are those of one input, and guidance doubles them; "
            f"leave {'--call' if guidance_scale is None else '--guidance-scale'} out"
        )
    else:
        pipe, preset = presets.load(name), presets.get(name)
    inputs = preset.example_inputs(pipe) if preset and sites else None
    description = description_of(pipe, sites or None, inputs, given or None)
    cost = stepmask.measure_cost(pipe, call_kwargs=given, sites=sites or None, example_inputs=inputs)
    denoiser, graph = description.denoiser, description.graph
    title = type(denoiser).__name__ + ("" if pipe is denoiser else f" in a {type(pipe).__name__}")
    out = stdout()
    out.print(sites_table(title, graph, cost, every or len(graph) <= FEW))
    if not every and len(graph) > FEW:
        out.print("--all gives each site a row and lists who reads it", style="dim")
    if graph.within:
        out.print("the MACs of a site that contains others are its own, without theirs", style="dim")
    forwards = cost.forwards_per_image
    several = f", {forwards} forwards because of guidance" if forwards > 1 else ""
    out.print(f"\nper image and step{several}; conv + linear leaves out the products of attention")
    out.print(cost_table(graph, cost))
    for line in _lines(pipe, denoiser, graph, cost, preset):
        out.print(line)
    if not preset and not sites and isinstance(description.architecture, Given):
        out.print(
            f"{type(denoiser).__name__} is none of the supported classes: its sites were told by the parts of its "
            "blocks; --sites chooses others"
        )


def _lines(pipe: Any, denoiser: Any, graph: Any, cost: Any, preset: presets.Preset | None) -> list[str]:
    """Structure, parameters, the size of the cache, and where a preset comes from."""
    from stepmask.inspection.pipeline_call import PipelineCall
    from stepmask.inspection.placement import dtype_of
    from stepmask.inspection.twin import meta_twin

    scheduler = "" if preset else f"; scheduler {type(pipe.scheduler).__name__}"
    parameters = meta_twin(denoiser).parameters()  # of the plain model
    halves = cost.value_bytes * 2 / dtype_of(denoiser).itemsize / cost.forwards_per_image
    branches, innermost = list(graph.level("branch")), graph.innermost
    kept, together = halves[branches].sum(), max(halves[site] for site in graph.level("stack"))
    cache = f"{mib(kept)} per image"
    if preset.guided if preset else PipelineCall(pipe).takes("guidance_scale"):
        cache += f", {mib(max(2, cost.forwards_per_image) * kept)} with guidance"
    if len(branches) < len(innermost):
        samplers = [i for i in range(len(graph)) if i not in graph.within and i not in branches]
        cache += f"; samplers would add {mib(halves[samplers].sum())}"
    outer = [graph.sites[site].kind for site in graph.within]
    count = {kind: outer.count(kind) for kind in ("block", "stack")}
    around = f", within {_several(count['block'], 'block')} and {_several(count['stack'], 'list')} of blocks"
    lines = [
        f"{len(innermost)} innermost sites, {len(branches)} of them decided by masks{around if outer else ''}; "
        f"structure {graph.fingerprint}{scheduler}",
        f"{amount(sum(p.numel() for p in parameters))} parameters",
        f"cache if everything is kept, in float16: {cache}",
        f"cache of one value for all blocks together: {mib(together)} per image",
    ]
    if preset:
        weights = ", ".join(preset.hub) or "not on the hub in diffusers' format"
        lines += [f"published with {preset.published}", f"weights: {weights}"]
    return lines


def _several(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
