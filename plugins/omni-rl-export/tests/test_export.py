"""What is written, what is refused, and that a failed export leaves nothing behind. Reloading is in the ci tier."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from omni_rl.errors import CheckpointError, RunError, UserError
from omni_rl.reporting import exhibits
from omni_rl.run.start import Run
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory
from omni_rl_export import reproduce, weights
from omni_rl_export.card import without_paths
from omni_rl_export.export import SHEET, Wanted, export_run
from omni_rl_tiny import pipelines

UNVERIFIED = Wanted(verify=False)


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be damaged."""
    assert trained.directory is not None
    return Path(shutil.copytree(trained.directory.path, tmp_path / "run"))


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pytorch_lora_weights.safetensors")


def scaled(key: str, value: torch.Tensor) -> torch.Tensor:
    """B with alpha / rank (6 / 2) multiplied into it."""
    return value * 3 if ".lora_B." in key else value


def test_a_validation_keeps_its_pictures_and_how_to_draw_them_again(trained: Run) -> None:
    assert trained.directory is not None
    kept = exhibits.read(trained.directory, 2)
    assert [e.request.prompt for e in kept] == ["hello world", "hello world", "a sign", "a sign"]
    assert np.array_equal(np.stack([e.image for e in kept]), trained.last_validation.images())
    assert [e.request for e in kept] == [s.request for s in trained.samples]
    assert {e.shapes["x"] for e in kept} == {(4, 8, 8)}
    assert len({e.start()["x"].sum().item() for e in kept}) == 4
    assert kept[0].table.sigmas[-1] == 0


def test_pictures_without_a_checkpoint_are_dropped(trained: Run) -> None:
    assert trained.directory is not None
    assert [p.name for p in trained.directory.images.glob("*.safetensors") if p.stem != "before"] == [
        "validation-000002.safetensors"
    ]


def test_the_header_says_rank_and_alpha_and_the_names_are_the_pipelines(run: Path) -> None:
    folder = export_run(run, wanted=UNVERIFIED)
    with safe_open(folder / "pytorch_lora_weights.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    names = {name.rpartition(".lora_")[0] for name in adapter(folder)}
    assert (header["transformer.r"], header["transformer.lora_alpha"]) == (2, 2)
    assert {f"transformer.{name}" for name in header["transformer.target_modules"]} == names


def test_by_default_the_weights_are_those_that_validation_looked_at(run: Path, tmp_path: Path) -> None:
    path = checkpoint.latest(RunDirectory(run))
    assert path is not None
    for name, output in ((None, "a"), ("policy", "b")):
        found = adapter(export_run(run, tmp_path / output, Wanted(weights=name, verify=False)))
        for key, value in checkpoint.load_group(path, name or "ema").items():
            assert torch.equal(found[key.replace(".default", "")], scaled(key, value))


def test_an_earlier_checkpoint(run: Path) -> None:
    found = adapter(export_run(run, wanted=Wanted(iteration=1, verify=False)))
    kept = checkpoint.load_group(run / "checkpoints" / "iteration-000001", "ema")
    assert all(torch.equal(found[key.replace(".default", "")], scaled(key, value)) for key, value in kept.items())


def test_the_folder_is_free_of_this_machines_paths(run: Path) -> None:
    folder = export_run(run, wanted=Wanted(format="pipeline", verify=False))
    texts = [
        p for p in folder.rglob("*") if p.suffix in (".md", ".json", ".yaml", ".svg") and p.parent.name != "samples"
    ]
    assert len(texts) > 10
    assert [p for p in texts if str(run.parent.parent) in p.read_text()] == []


def test_the_card(run: Path) -> None:
    folder = export_run(run, wanted=UNVERIFIED)
    text = (folder / "README.md").read_text()
    _, matter, body = text.split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "library_name": "diffusers",
        "tags": ["omni-rl", "reinforcement-learning", "lora"],
    }
    provenance = json.loads((run / "provenance.json").read_text())
    for figure in (
        provenance["model"]["fingerprint"],
        provenance["data"]["training"]["sha256"],
        "rank 2, alpha 6",
        "jpeg_compressibility (weight 1)",
        "the moving average of the weights after 2 iterations",
        'negative_prompt="hello"',
        "The export did not run it.",
    ):
        assert figure in body
    shown = [word for word in ("curves.svg", "before_after.png") if f"({word})" in body and (folder / word).is_file()]
    assert len(shown) == 2
    config = yaml.safe_load(body.partition("```yaml\n")[2].partition("```")[0])
    assert config == yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["path"] == "prompts.txt"
    assert config["train"]["lr"] == 1e-2


def test_a_hub_model_is_named_with_its_commit() -> None:
    from omni_rl_export.card import _front_matter

    model = {"name": "someone/model", "hub": True, "commit": "abc"}
    assert yaml.safe_load(_front_matter(model, adapter=True).strip("-"))["base_model"] == "someone/model"
    assert yaml.safe_load(_front_matter(model, adapter=False).strip("-"))["base_model_relation"] == "finetune"


@pytest.mark.parametrize(
    ("given", "shown"),
    [("/a/b.txt", "b.txt"), ("C:\\a\\b.txt", "b.txt"), ("org/model", "org/model"), (" ", " "), ("/", "/"), (3, 3)],
)
def test_paths_are_cut_to_names(given: object, shown: object) -> None:
    assert without_paths({"x": [given]}) == {"x": [shown]}


def test_merging_adds_alpha_over_rank_times_b_a(run: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder = export_run(run, wanted=Wanted(format="pipeline", verify=False))
    file = "transformer/diffusion_pytorch_model.safetensors"
    merged, base = load_file(folder / file), load_file(tiny_folder("StableDiffusion3Pipeline") / file)
    path = checkpoint.latest(RunDirectory(run))
    assert path is not None
    sides = {n.removeprefix("transformer."): t.double() for n, t in checkpoint.load_group(path, "ema").items()}
    moved = 0
    for name, weight in merged.items():
        stem = name.removesuffix(".weight")
        delta = torch.zeros(())
        if f"{stem}.lora_A.default.weight" in sides:
            delta = 3 * sides[f"{stem}.lora_B.default.weight"] @ sides[f"{stem}.lora_A.default.weight"]
            moved += 1
        torch.testing.assert_close(weight.double(), base[name].double() + delta, rtol=1e-6, atol=1e-7)
    assert moved == len(sides) / 2
    for other in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for source in (tiny_folder("StableDiffusion3Pipeline") / other).iterdir():
            assert (folder / other / source.name).read_bytes() == source.read_bytes()


def test_bf16(run: Path) -> None:
    folder = export_run(run, wanted=Wanted(dtype="bf16", verify=False))
    assert {t.dtype for t in adapter(folder).values()} == {torch.bfloat16}
    assert "dtype=torch.bfloat16" in (folder / "README.md").read_text()


def test_an_export_is_replaced_only_when_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    export_run(run, output, UNVERIFIED)
    first = (output / "README.md").read_bytes()
    with pytest.raises(UserError, match="--force"):
        export_run(run, output, Wanted(iteration=1, verify=False))
    assert (output / "README.md").read_bytes() == first
    export_run(run, output, Wanted(iteration=1, verify=False, force=True))
    assert json.loads((output / SHEET).read_text())["iteration"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_what_is_no_export_is_never_replaced(run: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "README.md").write_text("years of work")
    (thesis / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is not an export"):
        export_run(run, thesis, Wanted(force=True))
    with pytest.raises(UserError, match="is not an export"):
        export_run(run, run, Wanted(force=True))
    assert len(list(thesis.iterdir())) == 2


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_half_way_leaves_what_was_there(
    earlier: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    if earlier:
        export_run(run, output, UNVERIFIED)
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    monkeypatch.setattr("omni_rl_export.export.write_card", lambda *_, **__: Path("/proc/nothing").write_text(""))
    with pytest.raises(RunError, match=r"cannot write .*out"):
        export_run(run, output, Wanted(verify=False, force=True))
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"] if earlier else ["run"]


def test_there_must_be_a_checkpoint(run: Path) -> None:
    with pytest.raises(CheckpointError, match="it has those of: 1, 2"):
        export_run(run, wanted=Wanted(iteration=7))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint to export"):
        export_run(run)
    with pytest.raises(CheckpointError, match="has no checkpoint of iteration 2"):
        export_run(run, wanted=Wanted(iteration=2))


def test_a_damaged_checkpoint_is_named(run: Path) -> None:
    file = run / "checkpoints" / "iteration-000002" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        export_run(run)
    assert "iteration-000001 is intact" in str(caught.value)
    assert not (run / "export").exists()


def test_damaged_pictures_are_named(run: Path) -> None:
    file = run / "images" / "validation-000002.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"validation-000002\.safetensors is damaged"):
        export_run(run)


def test_weights_that_the_run_does_not_keep(run: Path) -> None:
    with pytest.raises(CheckpointError, match="it has: ema, policy"):
        export_run(run, wanted=Wanted(weights="old", verify=False))


@pytest.mark.parametrize("wanted", [Wanted(iteration=1), Wanted(weights="policy")])
def test_without_pictures_there_is_nothing_to_verify(wanted: Wanted, run: Path) -> None:
    with pytest.raises(UserError, match="--no-verify"):
        export_run(run, wanted=wanted)
    assert not (run / "export").exists()


def test_another_base_is_refused(run: Path, tmp_path: Path) -> None:
    other = pipelines.build("StableDiffusion3Pipeline", tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="is not the model that"):
        export_run(run, wanted=Wanted(format="pipeline", verify=False), overrides=[f"model.path={other}"])


@pytest.mark.parametrize(
    ("architecture", "denoisers", "says"),
    [
        ("OmniGenPipeline", ["transformer"], "has no load_lora_weights"),
        ("NoPipelineOfDiffusers", ["transformer"], "has no load_lora_weights"),
        ("FluxPipeline", ["transformer", "transformer_2"], "cannot load into transformer_2"),
    ],
)
def test_where_diffusers_cannot_load_adapters(architecture: str, denoisers: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        weights._loader(architecture, denoisers)
    assert "--format pipeline" in str(caught.value)


def test_samples_are_whole_pictures(run: Path) -> None:
    folder = export_run(run, wanted=UNVERIFIED)
    kept = exhibits.read(RunDirectory(run), 2)
    sheet = json.loads((folder / "samples" / "samples.json").read_text())
    for exhibit, row in zip(kept, sheet["samples"], strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / "samples" / row["picture"])), exhibit.image)
        noise = load_file(folder / "samples" / row["noise"])
        assert torch.equal(noise["latents"], exhibit.start()["x"])


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``given(folder, "--device", "cpu")``: the export's own script, in this process."""

    def run(folder: Path, *arguments: str) -> None:
        monkeypatch.setattr(reproduce, "HERE", folder)
        monkeypatch.setattr(reproduce, "SAMPLES", folder / "samples")
        monkeypatch.setattr("sys.argv", ["reproduce.py", *arguments])
        reproduce.main()

    return run


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("layout", ["lora", "pipeline"])
def test_plain_diffusers_draws_the_runs_pictures(
    layout: str,
    run: Path,
    given: Callable[..., None],
    tiny_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = export_run(run, wanted=Wanted(format=layout, verify=False))
    given(folder, "--json", "--device", "cpu", "--base", str(tiny_folder("StableDiffusion3Pipeline")))
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == 4
    assert found["largest"] <= 1


def test_adapters_need_their_base(run: Path, given: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    folder = export_run(run, wanted=UNVERIFIED)
    with pytest.raises(SystemExit):
        given(folder)
    assert "--base is needed" in capsys.readouterr().err
