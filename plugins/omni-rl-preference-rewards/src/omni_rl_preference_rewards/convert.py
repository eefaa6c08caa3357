"""``omni-rl-convert-reward``: converts published checkpoints that are pickles to safetensors.

A pickle can run code when it is read, so no reward reads one. This program reads with ``weights_only=True``, which
admits tensors and plain containers and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from omni_rl.errors import ModelError, UserError

app = typer.Typer(
    help="Convert a published checkpoint of a reward model to safetensors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Source = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="the published file")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="the folder to write; set the reward's `path` to it")]


def main() -> None:
    """Entry point; an error that the user can mend exits with code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.command("hps_v2")
def hps_v2(
    checkpoint: Source,
    folder: Folder,
    base: Annotated[Path, typer.Option(help="transformers folder of laion/CLIP-ViT-H-14-laion2B-s32B-b79K")],
) -> None:
    """HPS_v2_compressed.pt or HPS_v2.1_compressed.pt of xswu/HPSv2, for the reward hps_v2."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from omni_rl_preference_rewards.folders import CLIP_TOKENIZER
    from omni_rl_preference_rewards.open_clip import clip_weights
    from omni_rl_preference_rewards.rewards import HPSv2

    HPSv2.files.tokenizer(base, CLIP_TOKENIZER)
    config, tokenizer = _base(CLIPConfig, base), _base(CLIPTokenizer, base)
    if {config.text_config.hidden_act, config.vision_config.hidden_act} != {"gelu"}:
        raise ModelError(
            f"--base: {base} is another CLIP than HPSv2's: its activation is not gelu",
            "take laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        )
    tensors = clip_weights(_read(checkpoint, inside="state_dict"))
    _write_model(CLIPModel, config, tokenizer, tensors, checkpoint, folder)


@app.command("image_reward")
def image_reward(
    checkpoint: Source,
    folder: Folder,
    base: Annotated[Path, typer.Option(help="folder with the tokenizer of google-bert/bert-base-uncased")],
) -> None:
    """ImageReward.pt of THUDM/ImageReward, for the reward image_reward."""
    from transformers import BertTokenizer

    from omni_rl_preference_rewards.blip import ImageRewardModel
    from omni_rl_preference_rewards.folders import BERT_TOKENIZER
    from omni_rl_preference_rewards.original_blip import blip_config, blip_weights
    from omni_rl_preference_rewards.rewards import ImageReward

    ImageReward.files.tokenizer(base, BERT_TOKENIZER)
    tokenizer, published = _base(BertTokenizer, base), _read(checkpoint)
    try:
        config = blip_config(published)
    except KeyError as error:
        raise ModelError(f"{checkpoint} is not ImageReward: it has no {error}", "give ImageReward.pt") from error
    _write_model(ImageRewardModel, config, tokenizer, blip_weights(published), checkpoint, folder)


@app.command("aesthetic")
def aesthetic(
    checkpoint: Source,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the file to write; set the reward's `head` to it")],
) -> None:
    """sac+logos+ava1-l14-linearMSE.pth of improved-aesthetic-predictor, for the reward aesthetic."""
    from omni_rl_preference_rewards.rating import RatingHead

    tensors = _read(checkpoint)
    if "layers.0.weight" not in tensors:
        raise ModelError(f"{checkpoint} is not the aesthetic predictor: it has no layers.0.weight", "check the file")
    _check(RatingHead(tensors["layers.0.weight"].shape[1]).state_dict(), tensors, checkpoint)
    _save(tensors, file)


@app.command("transformers")
def transformers_folder(checkpoint: Source) -> None:
    """A pytorch_model.bin of transformers (CLIP, PickScore): writes model.safetensors to the same folder."""
    _save(_read(checkpoint), checkpoint.with_name("model.safetensors"))


def _read(checkpoint: Path, inside: str | None = None) -> dict[str, Any]:
    """The tensors of a file by name, or those under its key ``inside``. Raises ModelError."""
    import torch

    if not checkpoint.is_file():
        raise ModelError(f"there is no file {checkpoint}", "give the published checkpoint file")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or malicious file raises has no common class
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ModelError(f"{checkpoint} cannot be read as tensors alone: {reason}", "download it again") from error
    table = content.get(inside, content) if isinstance(content, Mapping) else content
    if not isinstance(table, Mapping) or not all(isinstance(value, torch.Tensor) for value in table.values()):
        raise ModelError(f"{checkpoint} holds something else than a table of tensors", "check the file")
    return dict(table)


def _base(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"--base: {folder} holds no {kind.__name__}: {error}") from error


def _write_model(kind: Any, config: Any, tokenizer: Any, tensors: Any, checkpoint: Path, folder: Path) -> None:
    import torch

    with torch.device("meta"):
        wanted = kind(config).state_dict()
    _check(wanted, tensors, checkpoint)
    _require_free(folder / "model.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _save(tensors, folder / "model.safetensors")


def _check(wanted: Mapping[str, Any], tensors: Mapping[str, Any], checkpoint: Path) -> None:
    """Raise ModelError unless names and shapes equal those of the model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if wrong:
        first = f"{wrong[0]} is {shapes.get(wrong[0], 'absent')} and should be {expected.get(wrong[0], 'absent')}"
        raise ModelError(f"{checkpoint} does not fit the model: {first} ({len(wrong)} differ)", "check file and --base")


def _save(tensors: Mapping[str, Any], file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    _require_free(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}  # no views
    temporary = file.with_name(f".{file.name}.tmp")
    save_file(own, temporary, {"format": "pt"})
    temporary.replace(file)
    print(f"wrote {file}")


def _require_free(file: Path) -> None:
    if file.exists():
        raise ModelError(f"{file} exists already", "name another, or delete it")
