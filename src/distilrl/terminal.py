"""The terminal that rich writes to, whose reader may have gone."""

from rich.console import Console


class Terminal(Console):
    """rich's console, but for a closed pipe: rich ends the program as if something had failed, this one says so.

    Example::

        Terminal(stderr=True, emoji=False).print("[green]pass[/]")
    """

    def on_broken_pipe(self) -> None:
        """Raises the `BrokenPipeError` under way, for whoever began the program."""
        raise
