"""Options whose help says the default in words, and options made of the fields of Config."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer

from tritonnet.train import Config

__all__ = ["ask", "configuring"]

Command = TypeVar("Command", bound=Callable[..., None])


def ask(text: str, *names: str, **limits: Any) -> Any:
    """An option whose help says its default in words."""
    return typer.Option(*names, help=text, show_default=False, **limits)


def configuring(*names: str) -> Callable[[Command], Command]:
    """Give a command whose last parameter is `**chosen` an option for each of these fields of Config (default: all).

    What was not given is None. The options stand in front of the command's own keywords.
    """

    def decorate(command: Command) -> Command:
        signature, made = inspect.signature(command), []
        for own in [own for own in fields(Config) if own.name in (names or (own.name,))]:
            words, slow = own.metadata["words"], own.metadata["slow"]
            default = f" [default: {words}{'' if slow is None else f'; without a GPU {slow}'}]" if words else ""
            option = Annotated[own.type | None, ask(own.metadata["help"] + default)]  # type: ignore[name-defined]
            made.append(inspect.Parameter(own.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
        parameters = sorted([*made, *[*signature.parameters.values()][:-1]], key=lambda parameter: parameter.kind)
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate
