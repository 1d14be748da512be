"""Captions for CIFAR-10, written from its labels alone, and a word-level tokenizer for captions of any kind.

A caption says what the label says, in several wordings; of colours, poses and backgrounds the labels know nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stepmask_lab.reference.cifar10 import CLASSES

NOUNS = {
    "airplane": ("airplane", "plane", "aircraft"),
    "automobile": ("automobile", "car"),
    "bird": ("bird",),
    "cat": ("cat",),
    "deer": ("deer",),
    "dog": ("dog",),
    "frog": ("frog",),
    "horse": ("horse",),
    "ship": ("ship", "boat", "vessel"),
    "truck": ("truck", "lorry"),
}
"""Words for each class."""

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")

TEMPLATES = (
    "{noun}",
    "{a} {noun}",
    "a photo of {a} {noun}",
    "a small photo of {a} {noun}",
    "a picture of {a} {noun}",
    "a tiny picture of {a} {noun}",
    "an image of {a} {noun}",
    "this photo shows {a} {noun}",
    "this is {a} {noun}",
    "{a} {noun} in a small picture",
    "{a} {noun}, a kind of {kind}",
)
KIND_TEMPLATES = ("{a} {kind}", "a photo of {a} {kind}")

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def captions(label: int) -> list[str]:
    """All captions of a class, numbered as in `CLASSES`."""
    name = CLASSES[label]
    kind = "animal" if name in ANIMALS else "vehicle"
    specific = [_filled(template, noun, kind) for noun in NOUNS[name] for template in TEMPLATES]
    return specific + [_filled(template, kind, kind) for template in KIND_TEMPLATES]


def _filled(template: str, noun: str, kind: str) -> str:
    return template.format(a="an" if noun[0] in "aeiou" else "a", noun=noun, kind=kind)


CAPTIONS = tuple(tuple(captions(label)) for label in range(len(CLASSES)))
"""The captions of every class."""


def vocabulary(table: Iterable[Iterable[str]] = CAPTIONS) -> dict[str, int]:
    """Numbers of all words that the captions in a table use; padding, end and unknown word first."""
    words = {word for texts in table for text in texts for word in text.replace(",", " ,").split()}
    return {word: number for number, word in enumerate([PAD, END, UNKNOWN, *sorted(words)])}


def tokenizer(table: Iterable[Iterable[str]] = CAPTIONS) -> Any:
    """A transformers tokenizer for the captions in a table, one token per word: lowercase, an end token, padding."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = vocabulary(table)
    made = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words[END])])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)
