"""A target and its drafters as one thing: loaded together, checked against each other."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from adaspec_rl.data.encoding import encode_text
from adaspec_rl.decoding.drafters import (
    Drafter,
    DraftModel,
    EarlyExit,
    HiddenStateDrafter,
    NgramLookup,
    Offloading,
    TableDrafter,
)
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.verification import Rule
from adaspec_rl.decoding.verification.lossy import Judge
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.config_keys import refuse_unusable
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.memory import GIB, share_embeddings, weight_bytes
from adaspec_rl.engine.sharing import load_sharing, shares
from adaspec_rl.engine.translated import Translation, load_translated
from adaspec_rl.pairs.drafter_names import EXIT, NGRAM, TABLE, is_free, is_table
from adaspec_rl.pairs.end_of_text import end_of_text_ids
from adaspec_rl.pairs.fingerprint import fingerprint
from adaspec_rl.pairs.inflate import load_inflated
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.pairs.tables import load_table
from adaspec_rl.pairs.vocabularies import difference, translation

MEMORY = ("shared", "resident", "offload")
EXIT_SHARE = 0.25  # of the target's layers that an early exit runs by default

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A target model, its drafters and their common tokenizer."""

    name: str
    target: LanguageModel
    drafters: tuple[Drafter, ...]
    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    fingerprint: str  # of all models and how they run: recordings and policies belong to one pair
    offloading: Offloading | None = None  # moves draft models off the device and back

    def session(
        self,
        *,
        max_new_tokens: int,
        sampling: Sampling,
        verification: Rule = "rejection",
        survival: Sequence[Survival] | None = None,
    ) -> LiveSession:
        """A live decoding session of this pair; `survival` has one estimate per drafter.

        Raises:
            ValueError: `verification` is a judge of another pair.
        """
        if isinstance(verification, Judge):
            verification.check_pair(self.name, self.fingerprint)
        return LiveSession(
            self.target,
            self.drafters,
            eos_ids=self.eos_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            verification=verification,
            survival=survival,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text, with one begin token where the tokenizer has one."""
        return encode_text(self.tokenizer, text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(tokens)))


def load_pair(
    name: str,
    target: str,
    drafters: Sequence[str],
    options: LoadOptions = LoadOptions(),
    *,
    shape: str | None = None,
    drafter_shape: str | None = None,
    memory: str = "shared",
    memory_limit: float | None = None,
    idle_rounds: int = 256,
) -> Pair:
    """Load a pair from folders, GGUF files or hub ids.

    `tiny:NAME` is a model of the embedded pair, `smollm2` is SmolLM2-135M-Instruct and
    `smollm2:draft` the drafter that comes with it. A `shape` inflates the target (see
    `pairs.inflate`) and a `drafter_shape` the drafters; the pair's name then says so.

    Args:
        drafters: at least one of: draft models, including those that share the target's embedding
            (`engine.sharing`) and those with another vocabulary (`engine.translated`); `ngram`;
            `early_exit` (`early_exit:L` exits after `L` layers); trigram tables (`table:FILE`,
            `tiny:table`).
        memory: `resident` keeps every model on the device. With `shared`, draft models also use the
            target's embedding and output matrix if their own are equal. `offload` is like `shared`,
            and moves draft models that were not used for `idle_rounds` rounds to the host.
        memory_limit: GiB that the weights on the device may take.

        Raises:
            ValueError: a model cannot be loaded or inflated, a vocabulary cannot be translated, two
                drafters have the same name, the target does not offer the early exit, or the models
                do not fit in `memory_limit`.
    """
    if memory not in MEMORY:
        raise ValueError(f"unknown model.memory {memory!r}: expected one of {', '.join(MEMORY)}")
    _check_names(drafters)
    others = [drafter for drafter in drafters if is_free(drafter)]
    drafters, wanted = [item for item in drafters if item not in others], list(drafters)
    shapes = [shape, *[drafter_shape] * len(drafters)]
    if any(shapes) and "inflated" not in name:
        name = f"{name}-inflated"
    checkpoints = [checkpoint_of(source) for source in (target, *drafters)]
    for checkpoint in checkpoints:
        checkpoint.config()  # explains what is missing better than transformers does
    refuse_unusable(checkpoints[0].config(), quantized=options.engine == "transformers")
    tokenizer = checkpoints[0].tokenizer()
    models: list[LanguageModel] = []
    for checkpoint, size, source in zip(checkpoints, shapes, (target, *drafters)):
        if models:
            model = _load_drafter(checkpoint, size, models[0], tokenizer, options, source)
        else:
            model = _load(checkpoint, size, options, source)
        if models and memory != "resident" and share_embeddings(model.weights, models[0].weights):
            model.weights_moved()
        models.append(model)
    draft_models = {
        source: draft_model(model, models[0]) for source, model in zip(drafters, models[1:])
    }
    limit = None if memory_limit is None else round(GIB * memory_limit)
    offloading = None
    if memory == "offload":
        offloading = offload(list(draft_models.values()), models[0], limit, idle_rounds)
    elif limit is not None:
        _check_room(models, limit)
    made: dict[str, Drafter] = dict(draft_models)
    made |= {drafter: free_drafter(drafter, models[0], tokenizer) for drafter in others}
    every = tuple(made[drafter] for drafter in wanted)
    names = [drafter.name for drafter in every]
    _check_names(names)
    return Pair(
        name=name,
        target=models[0],
        drafters=every,
        tokenizer=tokenizer,
        eos_ids=end_of_text_ids(checkpoints[0], tokenizer),
        fingerprint=fingerprint(
            checkpoints,
            shapes,
            [_identity(drafter) for drafter in every],
            [model.execution for model in models],
        ),
        offloading=offloading,
    )


def own_model(drafter: Drafter, target: LanguageModel) -> LanguageModel | None:
    """The model that a drafter runs besides the target; None: it runs none."""
    return None if drafter.model is target else drafter.model


def draft_model(model: LanguageModel, target: LanguageModel) -> DraftModel:
    """The drafter that runs a loaded model, which may read the target's hidden states."""
    if isinstance(model, LeanModel) and model.architecture.reads_features:
        assert isinstance(target, LeanModel)
        return HiddenStateDrafter(model, target)
    return DraftModel(model, target.vocab_size)


def _check_names(drafters: Sequence[str]) -> None:
    names = [drafter.rstrip("/") for drafter in drafters]
    if len(set(names)) < len(names):
        raise ValueError(f"expected drafters that differ, got {', '.join(names)}")


def offload(
    drafters: Sequence[DraftModel], target: LanguageModel, limit: int | None, idle_rounds: int
) -> Offloading:
    """Let draft models leave the device; `limit`, in bytes, includes the target's weights."""
    if limit is not None:
        limit -= weight_bytes(target.weights)
    made = Offloading(idle_rounds=idle_rounds, limit=limit)
    for drafter in drafters:
        made.add(drafter, besides=target.weights)
    return made


def _check_room(models: Sequence[LanguageModel], limit: int) -> None:
    sizes = [weight_bytes(models[0].weights)]
    sizes += [weight_bytes(model.weights, models[0].weights) for model in models[1:]]
    if sum(sizes) > limit:
        listed = ", ".join(f"{m.name} {size / GIB:.3g}" for m, size in zip(models, sizes))
        raise ValueError(
            f"the models take {sum(sizes) / GIB:.3g} GiB ({listed}), more than "
            f"model.memory_limit={limit / GIB:.3g}: leave out a drafter, or set "
            "model.memory=offload"
        )


def _identity(drafter: Drafter) -> str:
    """The drafter's name; for a table, a fingerprint of its contents in place of its path."""
    if isinstance(drafter, TableDrafter):
        return f"{TABLE}:{drafter.table.fingerprint}"
    return drafter.name


def free_drafter(
    drafter: str, target: LanguageModel, tokenizer: PreTrainedTokenizerBase | None
) -> Drafter:
    """The drafter of that name, which needs no checkpoint; `tokenizer` is the target's.

    Raises:
        ValueError: the drafter needs the lean engine or a tokenizer, which the target lacks.
    """
    if drafter == NGRAM:
        return NgramLookup()
    if is_table(drafter):
        if tokenizer is None:
            raise ValueError(f"{drafter} belongs to a tokenizer, which the target lacks")
        return load_table(drafter, target, tokenizer)
    if not isinstance(target, LeanModel):
        raise ValueError(
            f"{drafter} needs the lean engine, but {target.name} runs in transformers: leave it "
            "out of model.drafters"
        )
    _, _, layers = drafter.partition(":")
    if layers and not layers.isdecimal():
        raise ValueError(f"expected {EXIT}:LAYERS, got {drafter!r}")
    depth = target.architecture.layers
    return EarlyExit(target, int(layers) if layers else max(1, round(EXIT_SHARE * depth)))


def _load_drafter(
    checkpoint: Checkpoint,
    shape: str | None,
    target: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    options: LoadOptions,
    name: str,
) -> LanguageModel:
    """A draft model of `target`, whose `tokenizer` it may not share."""
    options = options.of_drafters
    if shares(checkpoint.config()):
        if shape is not None:
            raise ValueError(
                f"{name} shares the embedding of its target: expected drafter_shape=null"
            )
        return load_sharing(
            checkpoint, target, name=name, quantize=options.quantize, compile=options.compile
        )
    found = _translation(target, tokenizer, checkpoint, shape, options, name)
    if found is not None:
        return load_translated(checkpoint, found, options, name)
    return _load(checkpoint, shape, options, name)


def _load(
    checkpoint: Checkpoint, shape: str | None, options: LoadOptions, name: str
) -> LanguageModel:
    """A model with a vocabulary that needs no translation."""
    if shape is None:
        return load_model(checkpoint.source, options, name=name)
    if options.quantize is not None:
        raise ValueError(f"shape={shape} keeps its full weights: expected quantize=null")
    if options.engine == "transformers" or options.spread:
        raise ValueError(
            f"shape={shape} needs the lean engine on one device: leave out device_map and "
            "tensor_parallel"
        )
    device = torch.device(options.device)
    return load_inflated(checkpoint, shape, dtype=options.numbers, device=device, name=name)


def _translation(
    target: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Checkpoint,
    shape: str | None,
    options: LoadOptions,
    name: str,
) -> Translation | None:
    """How a draft model's vocabulary becomes the target's; None if it is the same.

    Raises:
        ValueError: the draft model cannot be translated, or has no token of the target's.
    """
    own = checkpoint.tokenizer()
    how = difference(tokenizer, own)
    if how is None:
        return None
    differ = f"the vocabularies of {target.name} and {name} differ ({how})"
    if options.engine == "transformers" or shape is not None:
        raise ValueError(
            f"{differ}, and only the lean engine translates, into models' own shapes: choose a "
            "drafter of the target's own family"
        )
    found = translation(tokenizer, own, target.vocab_size)
    if not len(found.common):
        raise ValueError(f"{differ}, and they have no token in common: choose another drafter")
    logger.info(
        "%s; %s drafts the %d tokens that both have, %.0f%% of the target's",
        differ,
        name,
        len(found.common),
        100 * len(found.common) / target.vocab_size,
    )
    return found
