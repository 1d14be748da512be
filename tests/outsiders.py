"""A package that a stranger installs beside stepmask."""

import os
import subprocess
import sys
from pathlib import Path


class Stranger:
    """A package of one module beside the others that are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, group: str, source: str, name: str = "stranger") -> None:
        """Write the module and what pip writes about the package that it is in."""
        (self.folder / f"{name}_package.py").write_text(source)
        about = self.folder / f"{name}_package-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}_package\n")

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        """A fresh interpreter that has the package."""
        found = [str(self.folder), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        more = {"PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "dumb"}
        environment = os.environ | more
        return subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=self.folder, capture_output=True, text=True, check=False
        )

    def run(self, code: str) -> str:
        """What a program prints that goes well."""
        done = self.python("-W", "ignore::FutureWarning", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
