"""Commands that other packages add to ``omni-rl``: entry points of the group ``omni_rl.commands``.

An entry point refers to a function with typer's annotations. Its module is imported when the command runs and when
``--help`` lists it, so the module must not import torch at module level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from omni_rl.errors import PluginError, UserError, did_you_mean
from omni_rl.plugins.discovery import Offer, broken, find, known_plugins, load, offers

KIND = "commands"


class CommandGroup(TyperGroup):
    """Core's commands, then those of installed packages. (click's types are private to typer, hence Any.)"""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names without repetitions; core's own commands come first and cannot be replaced."""
        return list(dict.fromkeys([*super().list_commands(ctx), *(offer.key for offer in offers(KIND))]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name; None when neither core nor a package known to core has it.

        If the package is not installed, is broken, or is one of several with this command, the command raises that
        error when it runs.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        return _command(cmd_name) if cmd_name in _from_packages() else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that ``args`` begins with; UserError with the nearest name where there is none."""
        name, known = args[0], {*super().list_commands(ctx), *_from_packages()}
        if name not in known and not name.startswith("-"):
            raise UserError(
                f"there is no command {name!r}.{did_you_mean(name, known)}", "omni-rl --help lists what is installed"
            )
        return super().resolve_command(ctx, args)


def _from_packages() -> set[str]:
    """Commands of packages that are installed, and of those that could be."""
    return {offer.key for offer in offers(KIND)} | known_plugins().get(KIND, {}).keys()


def _command(name: str) -> Any:
    try:
        return _offered(find(KIND, name))
    except PluginError as error:
        return _refusing(name, error)


def _offered(offer: Offer) -> Any:
    """An offer's command; PluginError also when typer cannot make one of what the offer points at."""
    function = load(offer)
    try:
        return _alone(offer.key, function)
    except Exception as error:
        raise broken(offer, error) from error


def _refusing(name: str, error: PluginError) -> Any:
    """A command that takes any arguments and raises ``error``."""

    def refuse() -> None:
        raise error

    anything = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return _alone(name, refuse, help=f"(cannot be used: {error.what.splitlines()[0]})", context_settings=anything)


def _alone(name: str, function: Callable[..., Any], **settings: Any) -> Any:
    """The command that typer builds from one function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name, **settings)(function)
    return typer.main.get_command(app)
