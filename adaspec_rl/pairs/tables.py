"""Trigram tables as drafters: their files and their vocabularies."""

import hashlib
import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from adaspec_rl.decoding.drafters import TableDrafter
from adaspec_rl.decoding.trigrams import TrigramTable
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.pairs.drafter_names import SHIPPED_TABLES, TABLE

FILE = "table.safetensors"


def load_table(
    drafter: str, target: LanguageModel, tokenizer: PreTrainedTokenizerBase
) -> TableDrafter:
    """Load the drafter with a name such as `table:FILE`.

    Raises:
        ValueError: there is no such table, or it has another vocabulary than the target.
    """
    table = TrigramTable.load(table_path(drafter))
    if table.vocabulary != vocabulary_of(tokenizer) or table.vocab_size > target.vocab_size:
        raise ValueError(
            f"{drafter} was made for another vocabulary than that of {target.name}: build a table "
            f"with python -m adaspec_rl.tools.table model.target={target.name}"
        )
    return TableDrafter(table, target.vocab_size, drafter)


def table_path(drafter: str) -> Path:
    """The file of a table.

    Raises:
        ValueError: the name has no path.
    """
    if drafter in SHIPPED_TABLES:
        return Path(__file__).parent / drafter.partition(":")[0] / TABLE / FILE
    kind, _, path = drafter.partition(":")
    if kind != TABLE or not path:
        known = " or ".join(SHIPPED_TABLES)
        raise ValueError(f"expected {TABLE}:FILE, {known}, got {drafter!r}")
    return Path(path).expanduser()


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of the tokenizer's vocabulary."""
    found = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(found.encode()).hexdigest()[:16]
