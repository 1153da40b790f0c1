"""Where the numbers of a text come from: `python benchmarks/check_numbers.py [--write]`.

`docs/numbers.yaml` holds phrases of each text. Their fields are paths to numbers in a results file.
This lists every number with its file and path. It fails if the text has another number, or a number
that is in no phrase. `--write` writes the files' numbers into the text.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[1]
FIELD = re.compile(r"\{(?P<path>[\w.:,/ -]+?)(?:!(?P<as>\w+))?(?:\|(?P<format>[^}]*))?\}")
NUMBER = r"[+−-]?\d(?:[\d,.]*\d)?"
STANDALONE = re.compile(rf"(?<![\w.:,/-]){NUMBER}(?![\w]|-\w)")
NO_FIGURES = re.compile(r"```.*?```|<!--.*?-->|`[^`\n]*`|\]\([^)]*\)|https?://\S+", re.DOTALL)
CONVERSIONS = {
    None: lambda value: value,
    "gain": lambda value: 100 * (value - 1),  # a ratio, as percent above 1
    "percent": lambda value: 100 * value,
    "ms": lambda value: 1e3 * value,
    "us": lambda value: 1e6 * value,
    "inverse": lambda value: 1 / value,
}


@dataclass(frozen=True)
class Phrase:
    """A piece of text with fields for numbers, and the results that hold these numbers."""

    template: str
    file: str  # relative to the project; empty: numbers that are not measured
    root: Any  # the object at which paths begin
    at: str = ""  # the path of `root` in the file

    def rendered(self) -> str:
        """The text with the file's numbers.

        Raises:
            ValueError: the file has no number at a path.
        """
        return FIELD.sub(self._value, self.template)

    def sources(self) -> list[tuple[str, str]]:
        """`(number, path in the file)` of each field."""
        return [
            (self._value(found), "/".join(filter(None, (self.at, found["path"]))))
            for found in FIELD.finditer(self.template)
        ]

    def pattern(self) -> re.Pattern[str]:
        """A pattern of the text with any numbers."""
        literals = FIELD.split(self.template)[:: FIELD.groups + 1]
        return re.compile(NUMBER.join(re.escape(text) for text in literals))

    def _value(self, found: re.Match[str]) -> str:
        try:
            value = CONVERSIONS[found["as"]](_place(self.root, found["path"]))
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{self.file} has no number at {self.at}: {found[0]}") from None
        return format(value, found["format"] or "").replace("-", "−")


def _place(node: Any, path: str) -> Any:
    for key in filter(None, path.split("/")):
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node


def phrases(entries: list[dict[str, Any]]) -> Iterator[Phrase]:
    """The phrases of one text, from its part of `docs/numbers.yaml`."""
    for entry in entries:
        if "not_measured" in entry:
            yield from (Phrase(text, "", None) for text in entry["not_measured"])
            continue
        file, at = entry["file"], entry.get("at", "")
        root = _place(json.loads((PROJECT / file).read_text(encoding="utf-8")), at)
        for template in entry.get("phrases", ()):
            yield Phrase(template, file, root, at)
        for label, path in entry.get("rows", {}).items():
            template = entry["row"].replace("{label}", label)
            yield Phrase(template, file, _place(root, path), "/".join(filter(None, (at, path))))


def check(text: str, wanted: list[Phrase]) -> list[str]:
    """The mistakes in the text, one sentence each."""
    wrong, covered = [], set()
    for phrase in wanted:
        rendered = phrase.rendered()
        places = [found.span() for found in re.finditer(re.escape(rendered), text)]
        if not places:
            said = phrase.pattern().search(text)
            instead = f"the text says {said[0]!r}" if said else "the text has no such phrase"
            wrong.append(
                f"expected {rendered!r} from {phrase.file or 'docs/numbers.yaml'}: {instead}"
            )
        for begin, end in places:
            covered.update(range(begin, end))
    plain = NO_FIGURES.sub(lambda found: re.sub(r"\S", "x", found[0]), text)
    for found in STANDALONE.finditer(plain):
        if found.start() not in covered:
            line = text.count("\n", 0, found.start()) + 1
            wrong.append(f"line {line}: {found[0]} has no source: add its phrase")
    return wrong


def written(text: str, wanted: list[Phrase]) -> str:
    """The text with the files' numbers.

    Raises:
        ValueError: a phrase is not exactly once in the text.
    """
    for phrase in wanted:
        if phrase.rendered() in text:
            continue
        text, count = phrase.pattern().subn(phrase.rendered().replace("\\", r"\\"), text)
        if count != 1:
            raise ValueError(f"{phrase.template!r} is in the text {count} times, expected once")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="correct the texts")
    parser.add_argument("--numbers", type=Path, default=PROJECT / "docs" / "numbers.yaml")
    options = parser.parse_args()
    wrong = []
    for name, entries in yaml.safe_load(options.numbers.read_text(encoding="utf-8")).items():
        path, wanted = PROJECT / name, list(phrases(entries))
        text = path.read_text(encoding="utf-8")
        if options.write:
            text = written(text, wanted)
            path.write_text(text, encoding="utf-8")
        for phrase in wanted:
            for number, place in phrase.sources():
                print(f"{name}\t{number}\t{phrase.file}\t{place}")
        wrong += [f"{name}: {sentence}" for sentence in check(text, wanted)]
    print(*wrong, sep="\n", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
