"""Results that show themselves as a short table: as text where Python prints them, as HTML in a notebook."""

from collections.abc import Sequence
from html import escape

from distilrl.plain import Record

Rows = Sequence[Sequence[str]]


class Shown(Record):
    """A record whose ``repr`` is a headline and a table; a dataclass of it has ``repr=False``."""

    def _told(self) -> tuple[str, Rows]:
        """Headline, and rows of one length, the first of which are the heads of the columns."""
        raise NotImplementedError

    def __repr__(self) -> str:
        headline, rows = self._told()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([headline, *lines])

    def _repr_html_(self) -> str:
        headline, (heads, *rows) = self._told()

        def line(cells: Sequence[str], kind: str) -> str:
            return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"

        body = "".join(line(row, "td") for row in rows)
        return f"<b>{escape(headline)}</b><table>{line(heads, 'th')}{body}</table>"
