"""A model card: what people wrote, with the numbers put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cards import blocks
from faceexpr.utils.errors import FaceExprError

PLACE = re.compile(r"^\{(\w+)\}$", re.MULTILINE)
"""A line that stands for a block of numbers, such as ``{per_class}``."""


def page(found: Mapping[str, Any], prose: str, figures: frozenset[str] | set[str]) -> str:
    """Return a card in Markdown.

    Args:
        found: what was measured, as `cards.collect` has it.
        prose: the card with a line ``{block}`` in the place of each block of numbers; `cards.blocks` has their names.
        figures: names of the figures that there are; a block shows those it knows.

    Raises:
        FaceExprError: the prose asks for a block that there is not.
    """

    def filled(place: re.Match[str]) -> str:
        block = blocks.BLOCKS.get(place[1])
        if block is None:
            raise FaceExprError(
                f"the prose of {found['name']} has {place[0]}; expected one of {', '.join(blocks.BLOCKS)}"
            )
        return block(found, figures)

    name = found["name"]
    head = f"<!-- Written by `python docs/model_card.py {name}` from {name}.prose.md and {name}.json: change those. -->"
    return f"{head}\n\n" + re.sub(r"\n{3,}", "\n\n", PLACE.sub(filled, prose)).strip() + "\n"
