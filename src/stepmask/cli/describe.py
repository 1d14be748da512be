"""stepmask describe: the sites of a model, who reads them, and what they cost."""

from __future__ import annotations

from stepmask.cli._app import app, stdout
from stepmask.cli._arguments import Guidance, Model
from stepmask.cli._models import guidance_kwargs, load


@app.command()
def describe(model: Model, guidance_scale: Guidance = None) -> None:
    """List the blocks of MODEL that a mask decides on, and what each costs."""
    from rich.table import Table

    import stepmask
    from stepmask.architectures import denoiser_of

    pipe = load(model, device="cpu")
    graph = stepmask.describe(pipe)
    cost = stepmask.measure_cost(pipe, call_kwargs=guidance_kwargs(guidance_scale))
    shares, always = cost.shares()
    table = Table(title=f"{type(denoiser_of(pipe)).__name__} in a {type(pipe).__name__}", title_justify="left")
    for heading in ("site", "kind", "level", "read by", "MACs"):
        table.add_column(heading, justify="right" if heading in ("level", "MACs") else "left")
    for index, site in enumerate(graph.sites):
        readers = ["output" if reader < 0 else str(reader) for reader in graph.readers(index)]
        level = "" if site.depth is None else str(site.depth)
        table.add_row(f"{index:>2} {site.name}", site.kind, level, ", ".join(readers), f"{shares[index]:.1%}")
    table.add_row("[dim]outside of all sites, always runs[/]", "", "", "", f"{always:.1%}")
    out = stdout()
    out.print(table)
    twice = ", two forwards because of guidance" if cost.forwards_per_image == 2 else ""
    out.print(
        f"{len(graph)} sites, {len(graph.blocks)} of them decided by masks; "
        f"{cost.step_macs / 1e6:.5g} M MACs per image and step{twice}; structure {graph.fingerprint}; "
        f"scheduler {type(pipe.scheduler).__name__}"
    )
