"""stepmask gallery: one page on many masks, from folders and repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepmask.cli.common.app import app, stdout
from stepmask.files import ready_folder, write_atomically


@app.command()
def gallery(
    what: Annotated[
        list[Path],
        typer.Argument(
            metavar="WHAT...",
            help="Repositories (USER/NAME), folders that save_pretrained wrote, or files; of a folder of such folders, "
            "such as a registry, all of them.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for the page, index.html; it is made if it is not there."
        ),
    ] = Path("gallery"),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Gallery of masks",
) -> None:
    """Write one HTML page on many masks, families and recipes: pictures, numbers, and how to use each.

    The page is a single file that needs no network: open it from the folder, send it, or put it on any web server.

        stepmask gallery me/sd15-50 team/flux-20 -o gallery

        stepmask gallery /team/masks -o gallery
    """
    from stepmask.cards import exhibit_of, gallery_page, sources_in

    folder = ready_folder(output)
    sources = [source for one in what for source in sources_in(one)]
    path = folder / "index.html"
    write_atomically(path, gallery_page(map(exhibit_of, sources), title))
    size = path.stat().st_size / 2**20
    stdout().print(f"{path}: {len(sources)} shown, {size:.1f} MiB, open it in a browser", soft_wrap=True)
