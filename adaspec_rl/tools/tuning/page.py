"""A short page of text and tables, as Markdown and as HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ccc;"
    "text-align:left}pre{background:#f4f4f4;padding:.8em;overflow:auto}"
)


@dataclass(slots=True)
class Page:
    """Blocks in the order in which they were added, each in both formats."""

    title: str
    _blocks: list[tuple[str, str]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """A heading under the title."""
        self._blocks.append((f"## {text}", f"<h2>{html.escape(text)}</h2>"))

    def say(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append((text, f"<p>{html.escape(text)}</p>"))

    def code(self, text: str) -> None:
        """A block of lines, unchanged."""
        self._blocks.append((f"```\n{text}\n```", f"<pre>{html.escape(text)}</pre>"))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with a header."""
        lines = [head, ["---"] * len(head), *rows]
        marked = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        tagged = _line("th", head) + "".join(_line("td", row) for row in rows)
        self._blocks.append((marked, f"<table>{tagged}</table>"))

    def markdown(self) -> str:
        """The page as Markdown."""
        return "\n\n".join([f"# {self.title}", *(block for block, _ in self._blocks)]) + "\n"

    def html(self) -> str:
        """The page as one HTML file that needs no network."""
        title, body = html.escape(self.title), "".join(block for _, block in self._blocks)
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
            f"<style>{_STYLE}</style><h1>{title}</h1>{body}</html>\n"
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _line(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
