from __future__ import annotations

from xml.etree import ElementTree

from omni_rl_export.curves import write_curves


def test_the_curves_as_a_file_of_their_own(tmp_path):
    """Well-formed, one image per metric of rewards and actor, none over another, and with its own style."""
    rows = [
        {"iteration": i, "val/reward/mean": i, "reward/mean": 2 * i, "actor/loss": -i, "time/s": i} for i in (0, 1, 2)
    ]
    write_curves(tmp_path / "curves.svg", rows)
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    names = [e.text for e in root.iter() if e.get("class") == "name"]
    assert names == ["val/reward/mean", "reward/mean", "actor/loss"]
    tag = "{http://www.w3.org/2000/svg}"
    cells = root.findall(f"{tag}svg")
    assert len({(cell.get("x"), cell.get("y")) for cell in cells}) == 3
    assert all(float(c.get("y")) + float(c.get("height")) <= float(root.get("height")) for c in cells)
    assert "--line" in root.find(f"{tag}style").text
