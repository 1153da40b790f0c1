"""A run's identity: its script, settings and inputs; runs that differ never mix."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaspec_rl import strict_json
from adaspec_rl.config import Config
from adaspec_rl.files import write_atomically

RECORD = "run.json"  # in a run's folder
SHOWN = 3  # differences in a message
# Settings of places (contents are compared instead) and of workers.
_ELSEWHERE = {"resume", "runs", "policy", "data.path", "replay.cache", "replay.workers"}
_LOGGING = "logger."


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Everything that a run's results depend on."""

    script: str  # train_policy, evaluate
    settings: dict[str, Any]  # by dotted key
    contents: dict[str, Any]  # hashes and names of the inputs that the settings name

    def save(self, folder: Path) -> None:
        """Write the identity to a run's folder."""
        write_atomically(folder / RECORD, json.dumps(asdict(self), indent=2) + "\n")

    def check_settings(self, began: "RunIdentity", folder: Path) -> None:
        """Refuse to resume a run in `folder` that began with other settings.

        Raises:
            ValueError: says which settings differ.
        """
        if began.script != self.script:
            raise ValueError(
                f"{folder} holds a run of {began.script}.py, not of {self.script}.py: choose "
                "another folder"
            )
        _refuse(began.settings, self.settings, folder)

    def check_contents(self, began: "RunIdentity", folder: Path) -> None:
        """Refuse to resume a run in `folder` whose inputs were different."""
        _refuse(began.contents, self.contents, folder)


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting that results depend on, by its dotted key."""
    return {
        key: value
        for key, value in _flat(asdict(config)).items()
        if key not in _ELSEWHERE and not key.startswith(_LOGGING)
    }


def saved_identity(folder: Path) -> RunIdentity | None:
    """The identity of the run in a folder; None if there is no run.

    Raises:
        ValueError: its file is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return strict_json.typed(RunIdentity, strict_json.read(path, "the file"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): begin a new run") from None


def digest(content: Any) -> str:
    """A short hash of anything that JSON can hold."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:12]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The differences with both values, e.g. `seed=0 there, 1 here`; empty if there are none."""
    one, other = _flat(json.loads(json.dumps(there))), _flat(json.loads(json.dumps(here)))
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    shown = [f"{key}={_said(one, key)} there, {_said(other, key)} here" for key in keys[:SHOWN]]
    more = len(keys) - SHOWN
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _said(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return "null" if value is None else str(value)


def _refuse(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    differing = differences(there, here)
    if differing:
        raise ValueError(
            f"the run in {folder} began otherwise ({differing}): repeat the command that began it, "
            "or begin a new run"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
