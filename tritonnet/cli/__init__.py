"""The program `tritonnet`: arguments to a configuration, and errors to one line."""

from tritonnet.cli.app import app, main

__all__ = ["app", "main"]
