"""The command line: one verb per file. torch is imported when a verb runs, so that help comes at once.

Other packages add verbs from modules that they name in the entry point group ``stepmask.commands``.
"""

from stepmask import plugins
from stepmask.cli import (
    describe,
    evaluate,
    export,
    gallery,
    import_,
    learn,
    optimise,
    report,
    sample,
    schedule,
    share,
    show,
)
from stepmask.cli.common.app import app

plugins.load_plugins(plugins.COMMANDS)

__all__ = [
    "app", "describe", "evaluate", "export", "gallery", "import_", "learn", "optimise", "report", "sample", "schedule",
    "share", "show",
]  # fmt: skip
