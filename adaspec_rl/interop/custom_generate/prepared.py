"""A loaded model prepared to decode, with its memory, drafters and policies."""

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from adaspec_rl.control.controller import Controller
from adaspec_rl.decoding.drafters import Drafter
from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.language_model import RowModel
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.memory import MIB, weight_bytes
from adaspec_rl.engine.sharing import load_sharing, shares
from adaspec_rl.interop.custom_generate.policies import Policy, load_policy, policy_of
from adaspec_rl.interop.custom_generate.shared_weights import identity, shareable, shared_weights
from adaspec_rl.interop.custom_generate.transformers_rows import TransformersRows
from adaspec_rl.pairs.drafter_names import NGRAM, is_free, is_table
from adaspec_rl.pairs.pair import draft_model, free_drafter
from adaspec_rl.pairs.sources import checkpoint_of

WEIGHTS = ("shared", "packed", "transformers")
UNBOUNDED = 1 << 20  # tokens: transformers sets no limit if positions are computed
_PROBE = 8  # tokens on which the lean engine is compared with the module
_TOLERANCE = {torch.float32: 1e-3}  # of the largest logit; other types: 0.1

logger = logging.getLogger(__name__)
DraftModels = PreTrainedModel | str | Path
_prepared: "weakref.WeakKeyDictionary[PreTrainedModel, dict[object, Prepared]]"
_prepared = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of weights, by owner."""

    runs: str  # the engine of the forward pass
    model: int  # the transformers model's own
    added: int  # for the target, beside these
    drafters: int

    def __str__(self) -> str:
        return (
            f"{self.runs}: {self.model / MIB:.1f} MiB of weights are the model's own, "
            f"{self.added / MIB:.1f} MiB were added for it and {self.drafters / MIB:.1f} MiB for "
            "drafters"
        )


@dataclass(slots=True)
class Prepared:
    """A target that is ready to decode, with its drafters; kept for the next call."""

    target: RowModel
    drafters: tuple[Drafter, ...]
    memory: Memory
    identity: tuple[tuple[int, int], ...]
    policies: dict[str, Policy] = field(default_factory=dict)

    def policy(self, source: str | Path | Controller | None) -> Policy:
        """The policy of a folder or hub id (None: the default); it keeps learning over calls."""
        if source is not None and not isinstance(source, str | Path):
            return policy_of(source, self.drafters)
        key = str(source)
        if key not in self.policies:
            self.policies[key] = load_policy(source, self.drafters, self.target.vocab_size)
        return self.policies[key]


def prepare(
    model: PreTrainedModel, drafters: Sequence[DraftModels], weights: str = "shared"
) -> Prepared:
    """Prepare a model, or reuse its earlier preparation if its weights have not changed.

    Raises:
        ValueError: `weights` is unknown, or the model or a drafter cannot be used.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown: expected one of {', '.join(WEIGHTS)}")
    known = _prepared.setdefault(model, {})
    key = (weights, *(d if isinstance(d, str | Path) else id(d) for d in drafters))
    found = known.get(key)
    if found is None or found.identity != identity(model):
        known.pop(key, None)
        found = known[key] = _prepare(model, drafters, weights, list(known.values()))
        logger.info("%s", found.memory)
    return found


def _prepare(
    model: PreTrainedModel, drafters: Sequence[DraftModels], weights: str, others: list[Prepared]
) -> Prepared:
    target = next(
        (o.target for o in others if o.identity == identity(model) and _runs(o.target) == weights),
        None,
    ) or target_of(model, weights)
    made = tuple(_drafter(one, target, model) for one in _with_lookup(drafters))
    own = sum(parameter.nbytes for parameter in model.parameters())
    added = weight_bytes([target.weights, model]) - own
    modules = [one for one in drafters if isinstance(one, PreTrainedModel)]
    drafting = weight_bytes([*modules, *map(_weights_of, made)], [target.weights, model])
    return Prepared(target, made, Memory(target.execution, own, added, drafting), identity(model))


def _with_lookup(drafters: Sequence[DraftModels]) -> Sequence[DraftModels]:
    return drafters if NGRAM in drafters else [*drafters, NGRAM]


def _weights_of(drafter: Drafter) -> object:
    return None if drafter.model is None else drafter.model.weights


def source_of(model: PreTrainedModel) -> str:
    """The folder or hub id that the model was loaded from."""
    return model.name_or_path or "(the model was loaded from none)"


def _runs(target: RowModel) -> str:
    if isinstance(target, TransformersRows):
        return "transformers"
    return "packed" if "compiled" in target.execution else "shared"


def target_of(model: PreTrainedModel, weights: str) -> RowModel:
    """The model in the lean engine, in its own memory if possible, else its own forward."""
    name = Path(model.name_or_path or model.config.model_type).name
    if weights != "transformers":
        try:
            lean = _lean(model, name, weights)
        except ValueError as error:
            if weights == "packed":
                raise ValueError(f"weights='packed' needs the lean engine, but {error}") from None
            logger.info("%s runs through transformers' own forward: %s", name, str(error))
            lean = None
        if lean is not None:
            return lean
    return TransformersRows(model, name, _context_length(model))


def _lean(model: PreTrainedModel, name: str, weights: str) -> LeanModel | None:
    architecture = Architecture.from_config(model.config.to_dict())
    if not shareable(model):
        raise ValueError(f"the weights of {name} are no plain tensors on one device")
    limit = architecture.context_length
    if architecture.rope.rope_type != "dynamic":
        limit = max(limit, UNBOUNDED)
    if weights == "packed":
        made = LeanModel.from_tensors(
            model.config.to_dict(),
            model.state_dict().items(),
            name,
            dtype=model.dtype,
            device=model.device,
            kernels="compiled",
            context_length=limit,
        )
    else:
        made = LeanModel(
            architecture, shared_weights(model, architecture), name, context_length=limit
        )
    if difference := _difference(model, made):
        logger.warning("%s runs through transformers' own forward: %s", name, difference)
        return None
    return made


@torch.inference_mode()
def _difference(model: PreTrainedModel, lean: LeanModel) -> str:
    """The difference between the two models in words; empty: none."""
    tokens = torch.arange(_PROBE, device=model.device)[None] % lean.vocab_size
    expected = model(input_ids=tokens).logits[0].float()
    lean.reset()
    found = lean.extend(tokens)[0]
    error = float((found - expected).abs().max() / expected.abs().max())
    lean.reset()
    if error <= _TOLERANCE.get(model.dtype, 0.1):
        return ""
    return f"the lean engine's logits differ from its own by {error:.0%}"


def _context_length(model: PreTrainedModel) -> int:
    """The most tokens of a row: the size of the position table, if there is one."""
    config = model.config.get_text_config()
    computed = getattr(config, "rope_parameters", None) or getattr(config, "alibi", False)
    known = getattr(config, "max_position_embeddings", None)
    return UNBOUNDED if computed or known is None else int(known)


def _drafter(source: DraftModels, target: RowModel, model: PreTrainedModel) -> Drafter:
    if isinstance(source, PreTrainedModel):
        return draft_model(target_of(source, "shared"), target)
    name = str(source)
    if is_free(name):
        tokenizer = checkpoint_of(source_of(model)).tokenizer() if is_table(name) else None
        return free_drafter(name, target, tokenizer)
    checkpoint = checkpoint_of(name)
    if shares(checkpoint.config()):
        return draft_model(load_sharing(checkpoint, target, name=name), target)
    options = LoadOptions(dtype=model.dtype, device=model.device)
    loaded = load_model(checkpoint.source, options, name=Path(name).name)
    return draft_model(loaded, target)
