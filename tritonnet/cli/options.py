"""Options whose help says the default in words."""

from typing import Any

import typer

from tritonnet.train.config import HELP

__all__ = ["ask", "option"]


def ask(text: str, *names: str, **limits: Any) -> Any:
    """An option whose help says its default in words."""
    return typer.Option(*names, help=text, show_default=False, **limits)


def option(field: str, here: str, *names: str) -> Any:
    """An option that sets a field of Config; `here` is its default in words, if the help does not say it."""
    return ask(HELP[field] + (f" [default: {here}]" if here else ""), *names)
