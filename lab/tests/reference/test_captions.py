"""Captions say what labels say, and the tokenizer knows their words."""

import re

import pytest

from stepmask_lab.reference.captions import ANIMALS, NOUNS, captions, tokenizer, vocabulary
from stepmask_lab.reference.cifar10 import CLASSES

LABELS = pytest.mark.parametrize("label", range(10), ids=CLASSES)


@pytest.fixture(scope="module")
def words():
    pytest.importorskip("transformers")
    return tokenizer()


@LABELS
def test_captions_are_true(label):
    texts = captions(label)
    assert len(set(texts)) == len(texts) >= 10
    foreign = {noun for name in CLASSES if name != CLASSES[label] for noun in NOUNS[name]}
    foreign.add("vehicle" if CLASSES[label] in ANIMALS else "animal")
    assert not foreign & {word for text in texts for word in re.findall(r"\w+", text)}
    specific = [
        text for text in texts if any(noun in text.split() or f"{noun}," in text for noun in NOUNS[CLASSES[label]])
    ]
    assert len(texts) - len(specific) == 2, "the others say what kind of thing it is"
    assert any(CLASSES[label] in text for text in texts)


@LABELS
def test_articles(label):
    for text in captions(label):
        for article, word in re.findall(r"\b(an?) (\w+)", text):
            assert (article == "an") == (word[0] in "aeiou"), text


def test_the_vocabulary_is_small():
    words = vocabulary()
    assert list(words)[:3] == ["<pad>", "</s>", "<unk>"] and list(words.values()) == list(range(len(words)))
    assert len(words) < 64


def test_every_caption_is_known_and_short(words):
    texts = [text for label in range(10) for text in captions(label)]
    for ids in words(texts).input_ids:
        assert words.unk_token_id not in ids and ids[-1] == words.eos_token_id and len(ids) <= 16
    assert words.get_vocab() == vocabulary()


def test_words_case_and_padding(words):
    a, car, end, unknown = (words.get_vocab()[word] for word in ("a", "car", "</s>", "<unk>"))
    made = words(["", "a  Car", "a zebra"], padding="max_length", max_length=5)
    assert made.input_ids == [[end, 0, 0, 0, 0], [a, car, end, 0, 0], [a, unknown, end, 0, 0]]
    assert made.attention_mask == [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert words("a a a a a a", truncation=True, max_length=3).input_ids == [a, a, end]


def test_saved_and_loaded(words, tmp_path):
    from transformers import AutoTokenizer

    words.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a photo of an airplane") == words("a photo of an airplane")
