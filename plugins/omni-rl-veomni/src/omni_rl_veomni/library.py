"""Import VeOmni."""

from __future__ import annotations

import os
from unittest import mock

from omni_rl.errors import ConfigError

INSTALL = 'pip install veomni==0.1.12 "transformers<5.23", with Python 3.11 or 3.12'


def load() -> None:
    """Import VeOmni's diffusion models, without the reports that it prints (``VEOMNI_VERBOSITY`` shows them).

    Raises:
        ConfigError: VeOmni is not installed, or not with releases that it works with.
    """
    quiet = {"VEOMNI_VERBOSITY": os.environ.get("VEOMNI_VERBOSITY", "ERROR")}
    try:
        with mock.patch.dict(os.environ, quiet):
            import veomni.models.diffusers
    except ImportError as error:
        reason = str(error).partition(" (/")[0]
        raise ConfigError(f"train.backend: VeOmni cannot be imported: {reason}", INSTALL) from error
    assert veomni.models.diffusers
