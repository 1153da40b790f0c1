"""Use with other software: transformers' `generate`, other engines' configurations and metrics.

    model.generate(**inputs, custom_generate=adaspec_rl.interop.generate, draft_model="FOLDER")

Heavy modules are imported only when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaspec_rl.interop.custom_generate.folder import push
    from adaspec_rl.interop.custom_generate.generate import checkpoint, generate, generate_with

_WHERE = {
    "checkpoint": "adaspec_rl.interop.custom_generate.generate",
    "generate": "adaspec_rl.interop.custom_generate.generate",
    "generate_with": "adaspec_rl.interop.custom_generate.generate",
    "push": "adaspec_rl.interop.custom_generate.folder",
}
__all__ = ["checkpoint", "generate", "generate_with", "push"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
