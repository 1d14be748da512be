"""Short names of sites that fit beside a picture, and which of them belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "transformer_blocks": "block",
    "resnets": "res",
    "attentions": "attn",
    "downsamplers": "sampler",
    "upsamplers": "sampler",
}


def short_name(site: str) -> str:
    """``down_blocks.1.attentions.0`` becomes ``down 1 attn 0``; unknown words stay as they are."""
    words = [_WORDS.get(word, word) for word in site.split(".")]
    return re.sub(r"sampler 0$", "sampler", " ".join(words))


def group_of(site: str) -> str:
    """The block of the model that a site lies in: ``down 1``, ``mid``, ``block 3``."""
    words = short_name(site).split()
    return " ".join(words[:2]) if len(words) > 1 and words[1].isdigit() else words[0]


def group_starts(sites: Sequence[str]) -> list[int]:
    """Indices at which a new block of the model begins, the first left out; none where every site is its own."""
    groups = [group_of(site) for site in sites]
    starts = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    return starts if len(starts) < len(groups) - 1 else []
