"""Emoji: their names and captions, and pictures rendered from packages of icons that a test writes itself."""

import json
import sys

import numpy as np
import pytest

from refusal import check_refused
from stepmask_lab.reference import emoji
from stepmask_lab.reference.captions import tokenizer
from stepmask_lab.reference.text_to_image import MAX_TOKENS


def test_names_are_different_and_well_formed():
    phrases, icons = zip(*emoji.EMOJI, strict=True)
    assert len(set(phrases)) == len(set(icons)) == len(phrases) >= 200
    for phrase, icon in emoji.EMOJI:
        article, _, rest = phrase.partition(" ")
        if article in ("a", "an"):
            sounds_otherwise = rest in ("unicorn", "hourglass")
            assert (article == "an") == ((rest[0] in "aeiou") != sounds_otherwise), phrase
        assert icon == icon.lower() and " " not in icon and icon.strip("-") == icon


def test_captions_name_emoji_and_style():
    assert emoji.CAPTIONS[1] == (
        "a red apple, flat style",
        "a red apple in flat style",
        "red apple, flat",
        "a red apple",
    )
    texts = [text for texts in emoji.CAPTIONS for text in texts[:-1]]
    assert len(set(texts)) == len(texts), "a caption with a style names one picture"


def test_every_caption_is_known_and_short():
    pytest.importorskip("transformers")
    words = tokenizer(emoji.CAPTIONS)
    for ids in words([text for texts in emoji.CAPTIONS for text in texts]).input_ids:
        assert words.unk_token_id not in ids and len(ids) <= MAX_TOKENS


def test_held_out_pairs_are_few_and_leave_two_styles_of_every_emoji():
    away = emoji.held_out().reshape(len(emoji.EMOJI), len(emoji.STYLES))
    assert away.any(1).mean() == pytest.approx(1 / emoji.HELD_OUT_EVERY, abs=0.01) and away.sum(1).max() == 1
    assert (away.sum(0) >= 10).all(), "every style is held out of some"


COLOURS = {"noto": "#f00", "flat": "#0f0", "glossy": "url(#g)"}
BODY = """<defs><linearGradient id="g"><stop offset="0" stop-color="#000"/><stop offset="1" stop-color="#00f"/>
</linearGradient></defs><mask id="m"><path fill="#fff" d="M0 0h16v64H0z"/></mask>
<g mask="url(#m)"><path fill="{}" d="M0 0h32v{}H0z"/></g>"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Three packages of three icons; the third is higher than wide."""
    few = tuple(emoji.Emoji(f"a {name}", name) for name in ("box", "bag", "case"))
    monkeypatch.setattr(emoji, "PAIRS", tuple((each, style) for each in few for style in emoji.STYLES))
    for style, name in emoji.STYLES.items():
        folder = tmp_path / "node_modules" / name
        folder.mkdir(parents=True)
        icons = {each.icon: {"body": BODY.format(COLOURS[style], 32)} for each in few}
        icons["case"] = {"body": BODY.format(COLOURS[style], 64), "height": 64}
        (folder / "icons.json").write_text(json.dumps({"width": 32, "height": 32, "icons": icons}))
        (folder / "package.json").write_text('{"version": "1.0.0"}')
    return tmp_path


def test_rendered_on_white_in_the_order_of_pairs(packages):
    pytest.importorskip("resvg_py")
    images = emoji.load_emoji(packages)
    assert images.shape == (9, 3, 64, 64) and images.dtype == np.uint8
    noto, flat, glossy = images[:3]
    for image, colour in ((noto, (255, 0, 0)), (flat, (0, 255, 0))):
        assert (image[:, :, :31] == np.array(colour)[:, None, None]).all(), "what the mask shows"
        assert (image[:, :, 33:] == 255).all(), "what the mask hides is background"
    blue = glossy[2, 32, :31].astype(int)
    assert (np.diff(blue) >= 0).all() and blue[-1] > blue[0] + 60, "a gradient"
    tall = images[6]
    assert (tall[:, :, :15] == 255).all() and (tall[:, :, 33:] == 255).all() and (tall[1, :, 17:31] == 0).all(), (
        "as high"
    )


def test_kept_for_the_next_time(packages, tmp_path, monkeypatch):
    pytest.importorskip("resvg_py")
    cache = tmp_path / "cache"
    first = emoji.load_emoji(packages, cache)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "resvg_py", None)
        assert np.array_equal(emoji.load_emoji(packages, cache), first)
        (packages / "node_modules" / emoji.STYLES["flat"] / "package.json").write_text('{"version": "2.0.0"}')
        check_refused("pip install 'stepmask-lab.emoji.'", emoji.load_emoji, packages, cache)
    emoji.load_emoji(packages, cache)
    assert len(list(cache.iterdir())) == 2


def test_what_is_missing_is_named(packages, tmp_path):
    check_refused("no @iconify-json/noto in .*: npm install --prefix", emoji.load_emoji, tmp_path / "elsewhere")
    pytest.importorskip("resvg_py")
    path = packages / "node_modules" / emoji.STYLES["glossy"] / "icons.json"
    icons = json.loads(path.read_text())
    del icons["icons"]["bag"]
    path.write_text(json.dumps(icons))
    check_refused("@iconify-json/fluent-emoji has no icon 'bag'", emoji.load_emoji, packages)
