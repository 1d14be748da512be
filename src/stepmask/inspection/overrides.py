"""What is taken out of a pipeline for a while and put back: progress bars, safety checker, decoder, processors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from stepmask.gate import gated
from stepmask.inspection.pipeline_call import is_modular


@contextlib.contextmanager
def same_processors(denoiser: nn.Module) -> Iterator[None]:
    """Put a denoiser's attention processors back, where a pipeline sets others for a run: for perturbed attention."""
    before = dict(getattr(denoiser, "attn_processors", {}))
    try:
        yield
    finally:
        if any(before[name] is not now for name, now in getattr(denoiser, "attn_processors", {}).items()):
            denoiser.set_attn_processor(before)


@contextlib.contextmanager
def uncompiled(pipe: Any) -> Iterator[None]:
    """Let all models of a pipeline run as if torch.compile had never seen them, for a while.

    Args:
        pipe: A pipeline, a loop, or a model.
    """
    owners = [pipe] if isinstance(pipe, nn.Module) else list(vars(pipe).values())
    undo: list[tuple[dict[str, Any], str, Any]] = []

    def without(module: nn.Module, name: str, instead: Any) -> None:
        undo.append((vars(module), name, vars(module)[name]))
        vars(module).update({name: instead}) if instead is not None else vars(module).pop(name)

    for model in (owner for owner in owners if isinstance(owner, nn.Module)):
        itself = getattr(model, "_orig_mod", model)
        if itself is not model:
            without(model, "forward", itself.__call__)
        for module in itself.modules():
            if vars(module).get("_compiled_call_impl") is not None:
                without(module, "_compiled_call_impl", None)
            plain = getattr(vars(module).get("forward"), "_torchdynamo_orig_callable", None)
            if plain is not None:
                without(module, "forward", plain)
    try:
        yield
    finally:
        for attributes, name, value in reversed(undo):
            attributes[name] = value


class _Once(logging.Filter):
    """Lets a message through that was not said before: a pipeline says the same of a long prompt at every run."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if not hasattr(record, "is_new"):  # to the first of several handlers
            record.is_new = text not in self._said
        self._said.add(text)
        return record.is_new


_once = _Once()


@contextlib.contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Hide a pipeline's own progress bar for a while, and what modular ones log of an exception that they pass on.

    Of all else that diffusers and transformers log then, each message is said once in a process.
    """
    handlers = [one for name in ("diffusers", "transformers") for one in logging.getLogger(name).handlers]
    bars = list(_with_progress_bars(pipe))
    before = [vars(bar).get("_progress_bar_config") for bar in bars]
    log = logging.getLogger("diffusers.modular_pipelines")
    level = log.level
    log.setLevel(logging.CRITICAL)
    for handler in handlers:
        handler.addFilter(_once)
    for bar, config in zip(bars, before, strict=True):
        bar.set_progress_bar_config(**{**(config or {}), "disable": True})
    try:
        yield
    finally:
        log.setLevel(level)
        for handler in handlers:
            handler.removeFilter(_once)
        for bar, config in zip(bars, before, strict=True):
            if config is None:
                vars(bar).pop("_progress_bar_config", None)
            else:
                bar._progress_bar_config = config


def _with_progress_bars(part: Any) -> Iterator[Any]:
    """A pipeline; of a modular one the blocks that have one, at any depth."""
    part = part._blocks if is_modular(part) else part
    if hasattr(part, "set_progress_bar_config"):
        yield part
    for block in getattr(part, "sub_blocks", {}).values():
        yield from _with_progress_bars(block)


@contextlib.contextmanager
def unchecked(pipe: Any) -> Iterator[None]:
    """Take the safety checker out for a while: it blackens images, which would count as errors, or as none.

    For images that are measured; those that are shown to a user keep it. So do pipelines that must not run
    without it by their licence (Cosmos), whose checker reads the prompt too.
    """
    checker = getattr(pipe, "safety_checker", None)
    stays = checker is None or hasattr(checker, "check_text_safety")
    with contextlib.nullcontext() if stays else _set(pipe, safety_checker=None):
        yield


@contextlib.contextmanager
def without_decoder(pipe: Any, keep_all: bool = False) -> Iterator[list[Tensor]]:
    """Let the decoder return its input: pipelines decode even where nobody needs the picture.

    Yields a list that holds the input of the latest call, or of all calls; empty for pipelines without a decoder.
    """
    latents: list[Tensor] = []
    vae = getattr(pipe, "vae", None)

    def keep(z: Tensor) -> Tensor:
        latents[:] = [*latents, z] if keep_all else [z]
        return z.detach()  # what follows only makes pictures, some with numpy

    if vae is None:
        yield latents
    elif type(vae).__name__ == "AutoencoderKL":

        def network(compute: Any, args: tuple, kwargs: dict) -> Tensor:
            return keep(args[0] if args else kwargs["sample"])

        with _set(vae, use_slicing=False, use_tiling=False), gated([("vae.decoder", vae.decoder, network)]):
            yield latents
    else:  # others run their decoder once for every few frames

        def decode(z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            return SimpleNamespace(sample=keep(z)) if return_dict else (keep(z),)

        own = vars(vae).get("decode")  # a compiled one, for example
        vae.decode = decode
        try:
            yield latents
        finally:
            del vae.decode
            if own is not None:
                vae.decode = own


@contextlib.contextmanager
def _set(part: Any, **values: Any) -> Iterator[None]:
    """Set attributes for a while, those that there are."""
    before = {name: getattr(part, name) for name in values if hasattr(part, name)}
    try:
        for name in before:
            setattr(part, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(part, name, value)
