"""Writes ``report.html``: one self-contained page without network access or scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from omni_rl.reporting.curves import MetricsRow, constants, curve, sections
from omni_rl.reporting.escaping import html
from omni_rl.reporting.image_grids import data_uri
from omni_rl.storage.durable import write_atomic

Health = Mapping[str, Mapping[str, float]]

_FEW = 5  # notes
_LOW = 0.7  # a figure is marked if it is below this fraction of the first row's figure
_MEANING = {
    "reward": "mean over the samples, with its standard error",
    "diversity_within": "how much samples of one prompt differ (root mean square over pixels, 0 to 1)",
    "diversity_across": "the same for samples of different prompts",
    "contrast": "standard deviation of luminance within an image (0 to 0.5)",
    "colour_entropy": "entropy in bits of the colours of all pixels, in 512 cells of the RGB cube (0 to 9)",
}


def write_report(
    path: Path,
    *,
    title: str,
    config_yaml: str,
    metrics: Sequence[MetricsRow],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    captions: Sequence[str],
    health: Health,
    notes: Sequence[str],
) -> None:
    """Write the report atomically.

    Args:
        path: the HTML file.
        title: title of the page.
        config_yaml: the resolved configuration.
        metrics: one row per iteration with the key ``iteration``. Every other key that varies becomes a curve, with
            ``x_stderr`` (or ``x/stderr`` for ``x/mean``) as the band around ``x``. Rows without the key have no point;
            the line connects the points around them.
        before, after: uint8 (H, W, 3), or videos (F, H, W, 3); image i of both has ``captions[i]`` and the same noise.
        health: row name -> figures by name. The rows ``before`` and ``after`` make the headline; others may follow.
            ``x_stderr`` is shown with ``x``. Every row is compared with the first.
        notes: sentences for the top of the page.

    Raises RunError when the file cannot be written.
    """
    assert len(before) == len(after) == len(captions), (len(before), len(after), len(captions))
    parts = [
        f"<h1>{html(title)}</h1>",
        f'<div class="soft">{metrics[-1]["iteration"] if metrics else 0:.0f} iterations</div>',
        _headline(health),
        _list(notes),
        _pairs(before, after, captions),
        _curves(metrics),
        _health(health),
        "<h2>Configuration</h2>",
        f"<details><summary>every effective value</summary><pre>{html(config_yaml)}</pre></details>",
    ]
    write_atomic(path, _page(title, "\n".join(part for part in parts if part)).encode())


def style() -> str:
    """The CSS of the page and of its curves."""
    return resources.files(__package__).joinpath("style.css").read_text("utf-8")


def _page(title: str, body: str) -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser blocks all network access
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html(title)}</title>\n<style>\n{style()}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _headline(health: Health) -> str:
    """The reward before and after; empty if one of the rows is absent."""
    start, end = health.get("before", {}), health.get("after", {})
    if "reward" not in start or "reward" not in end:
        return ""
    return (
        f'<div class="headline">reward {_value(start, "reward")} &rarr; {_value(end, "reward")}</div>'
        '<div class="soft">before &rarr; after, mean and standard error</div>'
    )


def _list(notes: Sequence[str]) -> str:
    """A few notes are shown, many are folded, so that the images stay near the top."""
    if not notes:
        return ""
    items = f"<ul>{''.join(f'<li>{html(note)}</li>' for note in notes)}</ul>"
    return items if len(notes) <= _FEW else f"<details><summary>{len(notes)} notes</summary>{items}</details>"


def _pairs(before: Sequence[np.ndarray], after: Sequence[np.ndarray], captions: Sequence[str]) -> str:
    if not captions:
        return ""
    figures = "".join(
        f'<figure><figcaption title="{html(caption)}">{html(caption)}</figcaption>{_img(one)}{_img(two)}</figure>'
        for caption, one, two in zip(captions, before, after, strict=True)
    )
    intro = '<p class="soft">Upper image: before training. Lower image: after, same prompt, same noise.</p>'
    return f'<h2>Before and after</h2>{intro}<div class="pairs">{figures}</div>'


def _img(image: np.ndarray) -> str:
    uri = data_uri(image)
    return f'<img {"" if uri.startswith("data:image/png") else "class=large "}src="{uri}" alt="">'


def _curves(metrics: Sequence[MetricsRow]) -> str:
    if not metrics:
        return ""
    parts = ["<h2>Curves</h2>"]
    for section, names in sections(metrics).items():
        panels = "".join(curve(name, metrics) for name in names)
        parts.append(f'<h3>{section}</h3><div class="curves">{panels}</div>')
    fixed = ", ".join(f"{html(name)} {value:.6g}" for name, value in constants(metrics).items())
    return "".join(parts) + (f'<p class="soft">Constant: {fixed}</p>' if fixed else "")


def _health(health: Health) -> str:
    names = list(dict.fromkeys(name for row in health.values() for name in row if not name.endswith("_stderr")))
    if not names:
        return ""
    first = next(iter(health.values()))
    head = "".join(f"<th>{html(name.replace('_', ' '))}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{html(label)}</th>{''.join(_cell(row, first, name) for name in names)}</tr>"
        for label, row in health.items()
    )
    meanings = "".join(f"<dt>{html(n.replace('_', ' '))}</dt><dd>{_MEANING[n]}</dd>" for n in names if n in _MEANING)
    warning = (
        f"Marked: below {_LOW:.0%} of the first row. If the reward rises while these figures fall, look at the images."
    )
    table = f'<div class="wide"><table><tr><th></th>{head}</tr>{rows}</table></div>'
    return f'<h2>Health</h2>{table}<p class="soft">{warning}</p><dl>{meanings}</dl>'


def _cell(row: Mapping[str, float], first: Mapping[str, float], name: str) -> str:
    """One figure with its change from the first row in percent (not for rewards, because their zero is arbitrary)."""
    if name not in row:
        return "<td>-</td>"
    if row is first or name == "reward" or not first.get(name):
        return f"<td>{_value(row, name)}</td>"
    share = row[name] / first[name]
    return f"<td{' class=low' if share < _LOW else ''}>{_value(row, name)}<small>{share - 1:+.0%}</small></td>"


def _value(row: Mapping[str, float], name: str) -> str:
    error = row.get(f"{name}_stderr")
    return f"{row[name]:.3f}" if error is None else f"{row[name]:.3f} &plusmn; {error:.3f}"
