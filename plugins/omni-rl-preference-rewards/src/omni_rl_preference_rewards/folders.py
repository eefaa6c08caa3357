"""Checks the files of a reward. The checks are fast, so a run stops before it loads its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from omni_rl.errors import ModelError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CLIP_TOKENIZER = (("tokenizer.json",), ("vocab.json", "merges.txt"))
BERT_TOKENIZER = (("tokenizer.json",), ("vocab.txt",))


@dataclass(frozen=True)
class Files:
    """The files that a reward needs.

    Attributes:
        reward: its key, for messages.
        get: how to come by the files, line by line; shown as the hint of every error.
    """

    reward: str
    get: tuple[str, ...]

    def model(self, folder: Path, family: str) -> None:
        """``folder`` holds a transformers model of ``family`` (its ``model_type``) with safetensors weights.

        Raises:
            ModelError: it does not; says what to download.
        """
        if not folder.is_dir():
            raise self.error(f"there is no folder {folder}")
        found = self._family(folder / "config.json")
        if found != family:
            raise self.error(f"{folder} holds a model of type {found!r}, and this reward takes {family!r}")
        if not any((folder / name).is_file() for name in WEIGHTS):
            raise self.error(f"{folder} has no model.safetensors{_pickled(folder)}")

    def tokenizer(self, folder: Path, alternatives: tuple[tuple[str, ...], ...]) -> None:
        """``folder`` holds one set of the tokenizer files of ``alternatives``. Raises ModelError."""
        if not any(all((folder / name).is_file() for name in names) for names in alternatives):
            wanted = " or ".join(" and ".join(names) for names in alternatives)
            raise self.error(f"{folder} has no tokenizer ({wanted})")

    def processor(self, folder: Path) -> None:
        """``folder`` says how images are prepared. Raises ModelError."""
        self.file(folder / "preprocessor_config.json")

    def file(self, path: Path) -> None:
        """``path`` is a file. Raises ModelError."""
        if not path.is_file():
            raise self.error(f"there is no file {path}")

    def error(self, what: str) -> ModelError:
        """An error that names the reward, and gives the commands that download and convert the files."""
        return ModelError(f"reward {self.reward!r}: {what}", "\n  ".join(self.get))

    def _family(self, config: Path) -> object:
        self.file(config)
        try:
            return json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError) as error:
            raise self.error(f"{config} is not the configuration of a transformers model ({error})") from error


def _pickled(folder: Path) -> str:
    """The hint for weights that exist only as a pickle."""
    found = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if not found:
        return ""
    return (
        f"; it has {found[0]}, which is a pickle and is never loaded: omni-rl-convert-reward transformers "
        f"{folder / found[0]} writes the safetensors file beside it"
    )
