"""The typer application: how errors look. Knows no verbs; `stepmask.cli` adds them.

What a user can mend is one sentence and exit code 2, and so is what the user's own pipeline raises; an interrupt is
exit code 130; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

import stepmask
from stepmask.errors import StepMaskError
from stepmask.printing import console, safe_streams

ORDER = (
    "describe",
    "learn",
    "optimise",
    "schedule",
    "import",
    "sample",
    "evaluate",
    "show",
    "report",
    "share",
    "gallery",
    "export",
)
"""Verbs in the order in which one needs them; those that other packages add come after them."""

TRACEBACK = "STEPMASK_TRACEBACK"
"""In the environment: show the traceback of what a pipeline's call has raised."""
MOST_SAID = 500
"""So many letters of it are passed on."""
PIPED_WIDTH = 160
"""Characters of a line where results go into a file or a pipe: tables are not cut there."""


class Verbs(TyperGroup):
    """Runs a verb and turns what it raises into an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Verbs in the order in which help lists them."""
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb, the paragraphs of whose help are as wide as the terminal."""
        verb = super().get_command(ctx, cmd_name)
        if verb is not None and verb.help:
            verb.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in verb.help.split("\n\n"))
        return verb

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line from its words on."""
        with safe_streams(), _warnings_in_words():
            try:
                return super().main(*args, **kwargs)
            except StepMaskError as error:  # even help may find nowhere to go
                _say(error)
                sys.exit(2)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that the command line names."""
        try:
            return super().invoke(ctx)
        except StepMaskError as error:
            _say(error)
            raise typer.Exit(2) from None
        except Exception as error:
            pipeline = getattr(error, "of_the_call_of", None)  # as `stepmask.runtime.sampling` notes
            if pipeline is None or os.environ.get(TRACEBACK):
                raise
            reason = next(iter(str(error).strip().splitlines()), "")[:MOST_SAID]
            _say(
                f"the call of {pipeline} failed ({type(error).__name__}: {reason}): see that what --call and other "
                f"options give it fits together; {TRACEBACK}=1 in the environment shows where it happened"
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            stderr().print("interrupted")
            raise typer.Exit(130) from None


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Print warnings of stepmask's own as sentences, without the line of code that they come from."""
    own, shown = Path(stepmask.__file__).parent, warnings.showwarning

    def show(message: Any, category: Any, filename: str, *more: Any, **named: Any) -> None:
        if Path(filename).is_relative_to(own):
            _say(message, "warning:", "bold yellow")
        else:
            shown(message, category, filename, *more, **named)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def _say(what: Any, kind: str = "error:", style: str = "bold red") -> None:
    stderr().print(Text.assemble((kind, style), f" {what}"), soft_wrap=True)


def stdout() -> Console:
    """Where results go: pipe it and only they are in the pipe."""
    asked = sys.stdout.isatty() or "COLUMNS" in os.environ
    return console(sys.stdout, None if asked else PIPED_WIDTH)


def stderr() -> Console:
    """Where progress and errors go."""
    return console()


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrained diffusion models sample faster: a mask says which block computes at which step, "
    "and the weights stay untouched.",
    epilog="MODEL is a model on the Hugging Face hub by its id, such as google/ddpm-cifar10-32, or a folder that "
    "save_pretrained wrote. Begin with: stepmask describe MODEL",
)


def _print_versions(wanted: bool) -> None:
    """What a report of a problem needs to say; nothing is imported for it."""
    if wanted:
        libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "diffusers"))
        stdout().print(f"stepmask {stepmask.__version__} (python {platform.python_version()}, {libraries})")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """A callback makes verbs of the commands even if there is only one."""
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Raise the thresholds above which Linux's allocator gives freed memory back, to fault it in again at every step.

    Users of the library set ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` for the same effect on CPUs.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of glibc; elsewhere nothing happens
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(trim_threshold, 2**30)
            mallopt(mmap_threshold, 2**30)
