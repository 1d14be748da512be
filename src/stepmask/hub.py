"""Masks on the Hugging Face hub, in a team's registry, or in a folder: one JSON file, by name.

Nothing but JSON is read from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stepmask.errors import MaskFileError, StepMaskError
from stepmask.files import is_file, is_folder, read_json, ready_folder
from stepmask.words import did_you_mean

if TYPE_CHECKING:
    from typing import Self

    from stepmask.evaluation import Evaluation


MOST_SAID = 300
"""So many letters of what the hub says are passed on."""
HUB = "hub:"
"""May stand before the name of a repository, which then means no folder here: hub:user/name."""
REGISTRY = "STEPMASK_REGISTRY"
"""In the environment: a folder in which ``user/name`` is looked for before the hub is asked."""


class NothingThereError(MaskFileError):
    """A folder or a repository is there, and has no file of such a name."""


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

        Where the environment has ``STEPMASK_REGISTRY``, a folder, ``user/name`` is looked for in there first.

        Args:
            id_or_dir: Folder, or ``user/name``.
            filename: In it; ``mask.json`` for masks, ``family.json`` for families.
            revision: Branch, tag or commit of a repository on the hub; the registry, which has none, is passed over.
            token: For private repositories; by default that of ``hf auth login``.

        Raises:
            MaskFileError: There is no such folder, repository or file, or it holds something else.
        """
        return cls.load(find(id_or_dir, [filename or cls.hub_file], revision=revision, token=token))

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        base_model: str | None = None,
        license: str | None = None,
        pipe: Any = None,
        evaluation: Evaluation | None = None,
    ) -> Path:
        """Write into a folder what `push_to_hub` uploads: the file, its card (``README.md``), and pictures.

        Args:
            folder: It is made where there is none. In a registry it is ``REGISTRY/user/name``.
            base_model: As `push_to_hub` takes it.
            license: As `push_to_hub` takes it.
            pipe: As `push_to_hub` takes it.
            evaluation: As `push_to_hub` takes it.

        Returns:
            The folder.

        Raises:
            StepMaskError: It cannot be written, or what is given for the card does not fit.
        """
        from stepmask.cards import write_card

        path = ready_folder(folder)
        self.save(path / self.hub_file)
        write_card(path, self, name_of(path), base_model=base_model, license=license, pipe=pipe, evaluation=evaluation)
        return path

    def push_to_hub(
        self,
        repo_id: str,
        *,
        filename: str | None = None,
        base_model: str | None = None,
        license: str | None = None,
        pipe: Any = None,
        evaluation: Evaluation | None = None,
        private: bool | None = None,
        token: Any = None,
        commit_message: str | None = None,
    ) -> str:
        """Upload to a repository of the hub, which is made where there is none, with a card.

        The card says what the mask is for, what it reaches, and how to use it, with a map of it; with pictures of both
        runs where a pipeline or an evaluation is given. A card that somebody else has written is left as it is.

        Args:
            repo_id: ``user/name``.
            filename: In it; ``mask.json`` for masks, ``family.json`` for families. With a name of yours this file
                alone is uploaded, without a card.
            base_model: Id of the model on the hub that this is for. The default is what learning has recorded, which
                it does for pipelines that come from there.
            license: As the hub spells it, ``apache-2.0`` for example.
            pipe: A pipeline that fits. Some images are sampled with it, for the picture and the numbers of the card.
            evaluation: What `evaluate` said, in the place of `pipe`.
            private: Whether a new repository is private.
            token: Of an account that may write there; by default that of ``hf auth login``.
            commit_message: Of the upload.

        Returns:
            Address of the commit.

        Raises:
            StepMaskError: The hub refused it, or cannot be reached; or what is given for the card does not fit.
        """
        import tempfile

        from huggingface_hub import HfApi

        from stepmask.cards import card

        name = filename or self.hub_file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            self.save(path / name)
            if filename is None:
                about = {"base_model": base_model, "license": license, "pipe": pipe, "evaluation": evaluation}
                card.write_card(path, self, repo_id, **about)
            try:
                api = HfApi(token=token)
                api.create_repo(repo_id, private=private, exist_ok=True)
                if filename is None and card.is_foreign(_on_hub_if_there(repo_id, card.CARD, token)):
                    (path / card.CARD).unlink()
                message = commit_message or f"Upload {name} with stepmask"
                done = api.upload_folder(folder_path=path, repo_id=repo_id, commit_message=message)
            except _hub_errors() as error:
                raise StepMaskError(f"cannot write {name} to {repo_id} on the hub: {_reason(error)}") from error
        return str(done.commit_url)


def find(where: str | Path, names: Sequence[str], *, revision: str | None = None, token: Any = None) -> Path:
    """The first of some files that a folder, a repository in the registry, or one on the hub has.

    Args:
        where: Folder, or ``user/name``, perhaps with `HUB` before it.
        names: At least one name of a file.
        revision: As `Shared.from_pretrained` takes it.
        token: As `Shared.from_pretrained` takes it.

    Raises:
        NothingThereError: It is there, and has none of the files.
        MaskFileError: There is no such folder or repository, or the hub cannot be reached.
    """
    name = where.as_posix() if isinstance(where, Path) else str(where)
    repo_id = name.removeprefix(HUB)
    if not repo_id:
        raise MaskFileError("an empty name: give a folder, or user/name for a repository on the hub")
    if name == repo_id and is_folder(where):
        return _in_folder(Path(where), names)
    registry = os.environ.get(REGISTRY)
    if registry and revision is None and is_repo_id(repo_id) and is_folder(Path(registry) / repo_id):
        return _in_folder(Path(registry) / repo_id, names)
    if not registry:
        return _on_hub(repo_id, names, revision, token)
    shared = {path.parent for name in names for path in Path(registry).glob(f"*/*/{name}")}
    meant = did_you_mean(repo_id, sorted(name_of(folder) for folder in shared))
    return _on_hub(repo_id, names, revision, token, f", nor in the registry {registry},", meant)


def name_of(folder: Path) -> str:
    """What `load` finds a folder by: ``user/name`` where it lies in the registry, else the path as it was given."""
    registry, path = os.environ.get(REGISTRY), folder.resolve()
    if registry and path.is_relative_to(Path(registry).resolve()):
        return path.relative_to(Path(registry).resolve()).as_posix()
    return folder.as_posix()


def is_repo_id(name: str) -> bool:
    """Whether a name could be that of a repository: ``user/name``, and no JSON file in a folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.endswith(".json")


def _in_folder(folder: Path, names: Sequence[str]) -> Path:
    found = next((folder / name for name in names if is_file(folder / name)), None)
    if found is None:
        raise NothingThereError(f"folder {folder} has no {' and no '.join(names)}: give the folder of a mask")
    return found


def _on_hub(
    repo_id: str, names: Sequence[str], revision: str | None, token: Any, nor: str = "", meant: str = ""
) -> Path:
    """The first of the files in a repository; `nor` says where else it was looked for, `meant` what may be meant."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    first: Exception | None = None
    for name in names:
        out_of_reach = isinstance(first, LocalEntryNotFoundError)  # not asked again, which takes many seconds
        try:
            return Path(hf_hub_download(repo_id, name, revision=revision, token=token, local_files_only=out_of_reach))
        except EntryNotFoundError as error:  # another may be there; of a hub out of reach, among what was downloaded
            first = first or error
        except _hub_errors() as error:
            first = error
            break
    at = "" if revision is None else f" at {revision}"
    is_there = isinstance(first, EntryNotFoundError) and not isinstance(first, LocalEntryNotFoundError)
    raise (NothingThereError if is_there else MaskFileError)(
        f"no {' and no '.join(names)} in {repo_id}{at}, neither as a folder{nor} nor on the hub: {_reason(first)}"
        f"{meant}"
    ) from first


def _on_hub_if_there(repo_id: str, name: str, token: Any) -> Path | None:
    try:
        return _on_hub(repo_id, [name], None, token)
    except NothingThereError:
        return None


def _hub_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    unreachable = HfHubHTTPError.__bases__  # of the library that the hub is asked with, which changed
    return EntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError, LookupError, *unreachable


def _reason(error: Exception) -> str:
    """What the hub says, which goes on for many lines, as one that is not long."""
    return " ".join(str(error).split())[:MOST_SAID] or type(error).__name__
