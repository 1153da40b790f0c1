"""A folder in the hub's format, whose `custom_generate/generate.py` contains our decoding."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from adaspec_rl.files import new_folder, write_atomically

_GENERATE = '''"""Speculative decoding under a learned policy, by adaspec_rl: the same, sooner."""

from adaspec_rl.interop import generate_with

POLICY = {policy}
DRAFT_MODEL = {draft_model}


def generate(model, **arguments):
    """What `model.generate(custom_generate=..., trust_remote_code=True)` calls."""
    arguments = {{"policy": POLICY, "draft_model": DRAFT_MODEL, **arguments}}
    inputs = arguments.pop("inputs", None)
    return generate_with(model, **({{}} if inputs is None else {{"inputs": inputs}}), **arguments)
'''
_CARD = """---
library_name: transformers
tags: [custom_generate]
---

# Speculative decoding under a learned policy

`model.generate(**inputs, custom_generate={source!r}, trust_remote_code=True)` gives the same text,
sooner. It needs `pip install adaspec_rl`. Further arguments: `policy`, `draft_model`, `weights`
(`shared`, `packed` or `transformers`).
"""


def push(
    folder: str | Path,
    *,
    policy: str | Path | None = None,
    draft_model: str | Sequence[str] | None = None,
    repository: str | None = None,
) -> Path:
    """Write a folder for `model.generate(custom_generate=FOLDER, trust_remote_code=True)`.

    Args:
        folder: the folder to write; its other files, such as a model, stay.
        policy: a policy bundle's folder, which is copied.
        draft_model: a folder, hub id or name, or several.
        repository: a hub id to upload the folder to; the policy is then loaded from there.

    Returns: the folder.

    Raises:
        ValueError: the policy is not a bundle, or the hub cannot be reached.
    """
    where = Path(folder).expanduser().resolve()
    where.mkdir(parents=True, exist_ok=True)
    if policy is not None:
        from adaspec_rl.interop.custom_generate.policies import policy_folder
        from adaspec_rl.training.bundle import load_bundle

        source = policy_folder(policy)
        load_bundle(source)  # refuses what is not a bundle
        with new_folder(where / "policy") as fresh:
            shutil.copytree(source, fresh, dirs_exist_ok=True)
    bundle = None if policy is None else repository or str(where)
    drafters = [draft_model] if isinstance(draft_model, str) else draft_model
    code = where / "custom_generate"
    code.mkdir(exist_ok=True)
    filled = {
        "policy": repr(bundle),
        "draft_model": repr(None if drafters is None else [*drafters]),
    }
    write_atomically(code / "generate.py", _GENERATE.format(**filled))
    write_atomically(code / "requirements.txt", "adaspec_rl\n")
    if not (where / "config.json").is_file():  # `generate` looks for one beside the code
        write_atomically(
            where / "config.json", json.dumps({"model_type": "custom_generate"}) + "\n"
        )
    if not (where / "README.md").is_file():
        write_atomically(where / "README.md", _CARD.format(source=repository or str(where)))
    if repository is not None:
        _upload(where, repository)
    return where


def _upload(folder: Path, repository: str) -> None:
    from huggingface_hub import create_repo, upload_folder

    try:
        create_repo(repository, exist_ok=True)
        upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # any error of the network or the hub
        raise ValueError(
            f"{folder} is written, but cannot be uploaded to {repository} "
            f"({type(error).__name__}): log in with `hf auth login`, or check the network"
        ) from None
