"""``python -m omni_rl.plugins.probe DISTRIBUTION FILE``: imports a distribution's plugins and writes their errors.

Runs in its own process, so that a plugin which hangs, prints or crashes does not affect ``omni-rl plugins --check``.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from omni_rl.errors import PluginError
from omni_rl.plugins.checks import check_tracker, implementations
from omni_rl.plugins.contract import LAYER_OF_KIND, Layer
from omni_rl.plugins.discovery import Offer, load, offers


def problem(offer: Offer) -> str | None:
    """The error that a run which needs the offer would show; None when the offer can be used."""
    try:
        plugin = load(offer)
        if offer.kind in LAYER_OF_KIND:
            implementations(Layer(LAYER_OF_KIND[offer.kind], plugin, offer.source))
        if offer.kind == "trackers" and inspect.isclass(plugin):
            check_tracker(plugin, offer.source)
    except PluginError as error:
        return str(error)
    return None


def main(distribution: str, result: str) -> None:
    """Write the errors of a distribution's offers to the file ``result``, as a JSON list of texts."""
    problems = [problem(offer) for offer in offers() if offer.distribution == distribution]
    Path(result).write_text(json.dumps([text for text in problems if text is not None]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
