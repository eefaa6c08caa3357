"""``python -m omni_rl.plugins.probe DISTRIBUTION FILE``: import all that a distribution offers, write what is wrong.

Runs in a process of its own, so that a plugin that hangs, prints or crashes harms nobody.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omni_rl.errors import PluginError
from omni_rl.plugins.checks import implementations
from omni_rl.plugins.contract import LAYER_OF_KIND, Layer
from omni_rl.plugins.discovery import Offer, load, offers


def problem(offer: Offer) -> str | None:
    """Why an offer cannot be used, in the words that a run which needs it would show; None when it can."""
    try:
        found = load(offer)
        if offer.kind in LAYER_OF_KIND:
            implementations(Layer(LAYER_OF_KIND[offer.kind], found, offer.source))
    except PluginError as error:
        return str(error)
    return None


def main(distribution: str, result: str) -> None:
    """Write the problems of a distribution's offers to the file ``result``, as a JSON list of texts."""
    problems = [problem(offer) for offer in offers() if offer.distribution == distribution]
    Path(result).write_text(json.dumps([text for text in problems if text is not None]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
