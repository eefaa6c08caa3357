"""Text for HTML and SVG: whatever a prompt, a name or a file contains, the page stays valid."""

from __future__ import annotations

import re
from html import escape

_PLANE_ENDS = "".join(chr(plane + last) for plane in range(0x10000, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff{_PLANE_ENDS}]")
"""Characters that neither HTML nor XML allows: control characters (NUL among them), surrogates, non-characters."""


def printable(text: object) -> str:
    """``text`` with the replacement character in place of every character that a page must not contain."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def html(text: object) -> str:
    """``text`` for HTML and SVG, in elements and in attributes with quotes."""
    return escape(printable(text))
