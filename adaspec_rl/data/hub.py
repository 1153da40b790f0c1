"""Prompts from a dataset on the Hugging Face Hub, through the optional `datasets` library."""

import logging
from pathlib import PurePath
from typing import Any

from adaspec_rl.data.conversations import Conversation
from adaspec_rl.data.prompts import TEXT_KEYS, Prompt, read_turns, split_prompts

logger = logging.getLogger(__name__)


def hub_prompts(
    name: str,
    split: str,
    test_share: float = 0.5,
    template: str | None = None,
    *,
    config: str | None = None,
    hub_split: str = "train",
    column: str | None = None,
    domain_column: str | None = None,
) -> list[Prompt]:
    """The prompts of a dataset's `train` or `test` split; see `split_prompts`.

    Rows without a text are left out, and a logged warning counts them.

    Args:
        name: a hub id such as `openai/gsm8k`, or a folder that holds a dataset.
        split: our own `train` or `test`, by a hash of each text; see `hub_split` for the dataset's.
        config: the dataset's subset, if it has several.
        hub_split: the dataset's own split to read, or a slice such as `test[:500]`.
        column: the column of the texts or conversations; None: the first that exists of `messages`,
            `turns`, `text`, `prompt` and `question`.
        domain_column: the column of the domains; None: a single domain, named after the dataset.

    Raises:
        ValueError: `datasets` is not installed, the dataset cannot be loaded or lacks a column, or
            the split is empty.
    """
    dataset = _load(name, config, hub_split)
    columns = list(dataset.column_names)
    if column is None:
        column = next((key for key in TEXT_KEYS if key in columns), None)
    for key, wanted in (("column", column), ("domain_column", domain_column)):
        if wanted not in columns and (key == "column" or wanted is not None):
            raise ValueError(
                f"data.{key}={wanted or 'null'} names no column of {name}: "
                f"expected one of {', '.join(columns)}"
            )
    texts = [_read(value) for value in dataset[column]]
    domains = [str(value) for value in dataset[domain_column]] if domain_column else None
    own = PurePath(name).name
    prompts = [
        Prompt(str(number), domains[number] if domains else own, *text)
        for number, text in enumerate(texts)
        if text
    ]
    if len(prompts) < len(texts):
        logger.warning(
            "left out %d of the %d rows of %s: no text in column %s",
            len(texts) - len(prompts),
            len(texts),
            name,
            column,
        )
    return split_prompts(prompts, split, test_share, template, source=name)


def _read(value: object) -> tuple[str, Conversation] | None:
    try:
        return read_turns(value)
    except ValueError:
        return None


def _load(name: str, config: str | None, hub_split: str) -> Any:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise ValueError(
            "data=hub needs the datasets library: run pip install datasets or, offline, use "
            "data=jsonl data.path=FILE with a file saved elsewhere"
        ) from None
    try:
        return load_dataset(name, config, split=hub_split)
    except (DatasetsError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"cannot load the dataset {name} ({reason}): check data.name, data.config and "
            "data.split or, offline, set data.name to a downloaded copy's folder or use data=jsonl"
        ) from None
