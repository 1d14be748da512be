"""Masks on the Hugging Face hub, or in a folder: one JSON file, by name. Nothing but JSON is read from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stepmask.errors import MaskFileError, StepMaskError
from stepmask.files import is_folder, read_json

if TYPE_CHECKING:
    from typing import Self


MOST_SAID = 300
"""So many letters of what the hub says are passed on."""


class Shared:
    """What lies in one JSON file and can be shared; a class with ``save`` and ``from_dict`` or ``load``."""

    kind: ClassVar[str]
    """What errors call such a file."""
    hub_file: ClassVar[str]
    """Name of the file, where none is given."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read from a file.

        Raises:
            MaskFileError: It is not there, not JSON, of another format version, or says impossible things.
        """
        content = read_json(path, cls.kind)
        try:
            return cls.from_dict(content)
        except MaskFileError as error:
            raise MaskFileError(f"{cls.kind} {path}: {error}") from error

    @classmethod
    def from_pretrained(
        cls, id_or_dir: str | Path, *, filename: str | None = None, revision: str | None = None, token: Any = None
    ) -> Self:
        """Read from a folder, or from a repository of the hub, which keeps what it downloads.

        Args:
            id_or_dir: Folder, or ``user/name``.
            filename: In it; ``mask.json`` for masks, ``family.json`` for families.
            revision: Branch, tag or commit.
            token: For private repositories; by default that of ``hf auth login``.

        Raises:
            MaskFileError: There is no such folder, repository or file, or it holds something else.
        """
        name = filename or cls.hub_file
        if not str(id_or_dir):
            raise MaskFileError("an empty name: give a folder, or user/name for a repository on the hub")
        if is_folder(id_or_dir):
            return cls.load(Path(id_or_dir) / name)
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(str(id_or_dir), name, revision=revision, token=token)
        except _hub_errors() as error:
            at = "" if revision is None else f" at {revision}"
            raise MaskFileError(
                f"no {name} in {id_or_dir}{at}, neither as a folder nor on the hub: {_reason(error)}"
            ) from error
        return cls.load(path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        filename: str | None = None,
        private: bool | None = None,
        token: Any = None,
        commit_message: str | None = None,
    ) -> str:
        """Upload to a repository of the hub, which is made where there is none.

        Args:
            repo_id: ``user/name``.
            filename: In it; ``mask.json`` for masks, ``family.json`` for families.
            private: Whether a new repository is private.
            token: Of an account that may write there; by default that of ``hf auth login``.
            commit_message: Of the upload.

        Returns:
            Address of the commit.

        Raises:
            StepMaskError: The hub refused it, or cannot be reached.
        """
        import tempfile

        from huggingface_hub import HfApi

        name = filename or self.hub_file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file.json"
            self.save(path)
            try:
                api = HfApi(token=token)
                api.create_repo(repo_id, private=private, exist_ok=True)
                done = api.upload_file(
                    path_or_fileobj=path,
                    path_in_repo=name,
                    repo_id=repo_id,
                    commit_message=commit_message or f"Upload {name} with stepmask",
                )
            except _hub_errors() as error:
                raise StepMaskError(f"cannot write {name} to {repo_id} on the hub: {_reason(error)}") from error
        return str(done.commit_url)


def _hub_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    unreachable = HfHubHTTPError.__bases__  # of the library that the hub is asked with, which changed
    return EntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError, *unreachable


def _reason(error: Exception) -> str:
    """The first line of what the hub says, which goes on for many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:MOST_SAID] if lines else type(error).__name__
