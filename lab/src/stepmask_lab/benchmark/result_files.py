"""One file per row of a benchmark: safe to kill at any moment, shared by several processes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stepmask.errors import StepMaskError
from stepmask.files import write_atomically


class Key(NamedTuple):
    """What one row measures."""

    model: str
    steps: int
    method: str
    setting: str
    seed: int | None = None
    """Of learning; None where nothing is drawn."""

    @property
    def slug(self) -> str:
        """A file name."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        text = f"{self.model}-{self.steps}-{self.method}-{self.setting}{seed}".lower()
        text = text.replace(":", "to").replace("'", "").replace(" + ", "-")
        return re.sub(r"[^a-z0-9._-]+", "-", text)


class ResultFiles:
    """Rows in ``FOLDER/rows``, one file each, and those of result files from elsewhere.

    Args:
        folder: Of the benchmark.
        model: Whose rows these are; ``FOLDER/MODEL.json``, a collected result, is read too.
        order: Of the methods.
    """

    def __init__(self, folder: Path, model: str, order: Sequence[str] = ()) -> None:
        self.folder, self.model, self.order = folder, model, list(order)
        self._collected = folder / f"{model}.json"

    def rows(self) -> list[dict[str, Any]]:
        """All rows of this model, those collected before first, without their circumstances."""
        found = {self._key(row): row for row in self.collected().get("rows", [])}
        for row in self._files():
            found[self._key(row)] = {name: value for name, value in row.items() if name != "circumstances"}
        return sorted(found.values(), key=self._place)

    def circumstances(self) -> dict[str, Any]:
        """Under which rows were measured, by number of steps."""
        found = dict(self.collected().get("circumstances", {}))
        return found | {str(row["steps"]): row["circumstances"] for row in self._files()}

    def row(self, key: Key) -> dict[str, Any] | None:
        """A row, with its circumstances where they are known; None where nothing was."""
        if self._path(key).exists():
            return _read(self._path(key))
        collected = self.collected()
        for row in collected.get("rows", []):
            if self._key(row) == key:
                known = collected.get("circumstances", {}).get(str(key.steps))
                return row if known is None else {**row, "circumstances": known}
        return None

    def strip(self, key: Key) -> Path:
        """The file of a row's first images."""
        return self.folder / "pictures" / f"{key.slug}.png"

    def save(self, key: Key, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(key), json.dumps({**key._asdict(), **row}, indent=1) + "\n")

    def collected(self) -> dict[str, Any]:
        """The result file of this model, empty where there is none."""
        return _read(self._collected) if self._collected.exists() else {}

    def collect(self, **more: Any) -> dict[str, Any]:
        """Write all rows, and what else is given, to the result file."""
        result = {"model": self.model, **self.collected(), **more}
        result |= {"rows": self.rows(), "circumstances": self.circumstances()}
        write_results(self._collected, result)
        return result

    def _files(self) -> list[dict[str, Any]]:
        rows = (_read(path) for path in sorted((self.folder / "rows").glob("*.json")))
        return [row for row in rows if row["model"] == self.model]

    def _path(self, key: Key) -> Path:
        return self.folder / "rows" / f"{key.slug}.json"

    def _place(self, row: Mapping[str, Any]) -> tuple:
        method = self.order.index(row["method"]) if row["method"] in self.order else len(self.order)
        return -row["steps"], method, row["method"], row["seed"] or 0, -row["macs"]

    @staticmethod
    def _key(row: Mapping[str, Any]) -> Key:
        return Key(*(row[name] for name in Key._fields))


def write_results(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result file, a line per row."""
    fields = [f"{json.dumps(name)}: {_value(value)}" for name, value in result.items()]
    write_atomically(path, "{\n " + ",\n ".join(fields) + "\n}\n")


def _value(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"


def models_in(folder: Path) -> list[str]:
    """Models of which a benchmark's folder holds results, in alphabetical order."""
    files = [path for path in folder.glob("*.json") if not path.name.startswith("transfer-")]
    names = {found["model"] for found in map(_read, files) if {"model", "rows"} <= set(found)}
    return sorted(names | {_read(path)["model"] for path in (folder / "rows").glob("*.json")})


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StepMaskError(f"{path} is no result of a benchmark ({error}): delete it to measure it again") from error
