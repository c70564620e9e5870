"""What a task has to say, for a person or for a program."""

import json
from collections.abc import Callable, Iterable

from rich.console import Console

from mcl_lab.host.screen import screen

NAMES = 13  # characters of what stands before a line, at least


def put_out(format: str, plain: object, show: Callable[[Console], None]) -> None:
    """Print plain values as JSON when `format` is "json", else `show` them on the screen."""
    if format == "json":
        print(json.dumps(plain, indent=2))
    else:
        show(screen())


def show_lines(console: Console, lines: Iterable[tuple[str, str]], width: int = NAMES) -> None:
    """Print (name, text), a line each however long it is, so that a command in it can be copied."""
    for name, text in lines:
        console.print(f"{name:<{width}}  {text}", soft_wrap=True)
