"""What others see of a mask that is shared: its card on the hub, and a gallery of many.

Numbers come from what the files say and from evaluations that were given; nothing is sampled here but where a pipeline
is given for it.
"""

from __future__ import annotations

from stepmask.cards.card import write_card
from stepmask.cards.gallery import exhibit_of, gallery_page, sources_in

__all__ = ["exhibit_of", "gallery_page", "sources_in", "write_card"]
