"""The names of drafters in the configuration and in tables."""

from collections.abc import Sequence

NGRAM, EXIT, TABLE = "ngram", "early_exit", "table"  # drafters that need no checkpoint
SHIPPED_TABLES = ("tiny:table", "smollm2:table")


def is_free(drafter: str) -> bool:
    """Whether the drafter needs no checkpoint of its own."""
    return drafter == NGRAM or drafter.split(":")[0] == EXIT or is_table(drafter)


def is_table(drafter: str) -> bool:
    """Whether the name is that of a trigram table."""
    return drafter.split(":")[0] == TABLE or drafter in SHIPPED_TABLES


def short_names(drafters: Sequence[str]) -> list[str]:
    """Short names for tables, without folders, kinds and layers as long as they stay different."""
    forms = [_forms(drafter) for drafter in drafters]
    used = [0] * len(forms)
    while True:
        names = [form[place] for form, place in zip(forms, used)]
        unclear = [
            number
            for number, name in enumerate(names)
            if names.count(name) > 1 and used[number] + 1 < len(forms[number])
        ]
        if not unclear:
            return names
        for number in unclear:
            used[number] += 1


def _forms(drafter: str) -> list[str]:
    """The forms of a name, from the shortest to the full name."""
    if is_table(drafter):
        return [TABLE, drafter]
    if is_free(drafter):
        return [drafter.split(":")[0], drafter]
    parts = drafter.rstrip("/").split("/")
    paths = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return [paths[0].split(":")[-1], *paths]
