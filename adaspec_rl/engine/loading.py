"""Loads a checkpoint as a model that runs."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adaspec_rl.console import progress, standard_output
from adaspec_rl.engine.architecture import Architecture, UnsupportedError
from adaspec_rl.engine.causality import check_causality
from adaspec_rl.engine.checkpoint import Checkpoint, first_sentence, hub_failure
from adaspec_rl.engine.config_keys import (
    is_quantized,
    quantized_sentence,
    refuse_unusable,
    unknown_keys,
)
from adaspec_rl.engine.device_weights import read_weights
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.memory import out_of_memory
from adaspec_rl.engine.quantization import quantize_module
from adaspec_rl.engine.reference import check_first_layers
from adaspec_rl.engine.tensor_parallel import LeadingModel, check_plan, join, rank
from adaspec_rl.engine.transformers_model import TransformersModel, check_support
from adaspec_rl.engine.weights import Stored, stored_in

logger = logging.getLogger(__name__)
LARGE = 1 << 30  # bytes of weights that take a while to read


def load_model(
    source: str | Path,
    options: LoadOptions = LoadOptions(),
    *,
    name: str | None = None,
    context_length: int | None = None,
) -> LanguageModel:
    """Load a causal language model from a folder or from the Hugging Face Hub.

    Args:
        source: a checkpoint folder, or a hub id such as `Qwen/Qwen3-0.6B`.
        name: the name used in messages; by default the last part of `source`.
        context_length: the most tokens in one row; by default the configuration's.

    Raises:
        ValueError: the checkpoint cannot be found, fetched or understood.
        OutOfMemory: the model does not fit in the device's memory.
    """
    engine = options.engine
    checkpoint = Checkpoint(source)
    config = checkpoint.config()
    name = name or Path(str(source)).name
    refuse_unusable(config, quantized=engine == "transformers")
    architecture = None
    if engine == "lean" or (engine == "auto" and not options.spread):
        try:
            architecture = _lean_architecture(name, config, checkpoint)
        except UnsupportedError as error:
            if engine == "lean":
                raise
            logger.warning("%s runs through transformers' own forward, slower: %s", name, error)
    try:
        if architecture is None:
            return _load_transformers(checkpoint, config, options, name, context_length)
        tensors = _shown(name, checkpoint.weight_files())
        weights = read_weights(
            architecture,
            tensors,
            dtype=options.numbers,
            device=torch.device(options.device),
            kernels=options.kernels,
            quantize=options.quantize,
        )
        return LeanModel(
            architecture, weights, name, context_length=context_length, compile=options.compile
        )
    except torch.OutOfMemoryError as error:
        raise out_of_memory(name, error) from error


def _shown(name: str, files: Sequence[Path]) -> Iterator[tuple[str, Stored]]:
    """The tensors of `files`; shows progress if reading them takes a while."""
    total = sum(path.stat().st_size for path in files)
    if total < LARGE:
        yield from stored_in(files)
        return
    done = 0
    with progress(standard_output(), f"loading {name}") as update:
        for item in stored_in(files):
            yield item
            done += item[1].nbytes
            update(done, total)


def _lean_architecture(
    name: str, config: Mapping[str, Any], checkpoint: Checkpoint
) -> Architecture:
    """The architecture, after a check that unknown keys of the configuration change nothing."""
    architecture = Architecture.from_config(config)
    if unknown := unknown_keys(config):
        logger.warning(
            "the configuration of %s has keys that transformers' %s does not know: %s; they are "
            "ignored if the first layers' logits are those of transformers",
            name,
            architecture.family,
            ", ".join(unknown),
        )
        check_first_layers(config, checkpoint.weight_files(), unknown)
    return architecture


def _load_transformers(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    options: LoadOptions,
    name: str,
    context_length: int | None,
) -> TransformersModel:
    # Slow to import, and only some need it.
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    model_class = _class_of(config)
    spread: dict[str, Any] = {}
    if options.device_map is not None:
        spread["device_map"] = options.device_map
    made: type[TransformersModel] = TransformersModel
    with _explained(checkpoint, config):
        parsed: Any = AutoConfig.from_pretrained(checkpoint.source, trust_remote_code=False)
    parsed._attn_implementation = None  # what some other machine had
    check_support(parsed, model_class, name, context_length)
    if options.tensor_parallel is not None:
        check_plan(parsed, name)
        join(options.tensor_parallel)
        spread["distributed_config"] = DistributedConfig(tp_plan="auto")
        made = TransformersModel if rank() else LeadingModel
    checkpoint.weight_files()  # refuses damaged ones by name
    with _explained(checkpoint, config):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.source,
            config=parsed,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=options.numbers,
            trust_remote_code=False,
            **spread,
        )
    module, report = loaded
    _refuse_incomplete(name, report)
    if not options.spread:
        torch.nn.Module.to(module, options.device)  # its own `to` is not typed
    if options.quantize is not None:
        quantize_module(module, options.quantize)
    model = made(module, name, context_length=context_length)
    if not rank():  # others only do what they are told
        check_causality(model, options.numbers)
    return model


def _class_of(config: Mapping[str, Any]) -> type:
    """Transformers' class for the text model of a checkpoint."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, __version__

    family = config["model_type"]
    known = family in CONFIG_MAPPING
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(CONFIG_MAPPING[family], None) if known else None
    if isinstance(found, type):
        return found
    if "text_config" in config or "vision_config" in config:
        inner = (config.get("text_config") or {}).get("model_type")
        raise ValueError(
            f"model_type={family!r} is a multimodal model"
            f"{f' around a text model of type {inner!r}' if inner else ''}: expected a text-only "
            "checkpoint, such as its language model saved on its own"
        )
    if not known and "auto_map" in config:
        raise ValueError(
            f"model_type={family!r} needs the checkpoint's own Python code, which is never run: "
            f"expected a model that transformers {__version__} knows itself"
        )
    what = "has no causal language model of this type" if known else "does not know this type"
    raise ValueError(f"model_type={family!r}: transformers {__version__} {what}")


@contextmanager
def _explained(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of transformers' loaders into one sentence, except when memory runs out."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # they raise classes of their own
        if not checkpoint.local and isinstance(error, OSError):
            raise ValueError(hub_failure(checkpoint.source, error)) from None
        advice = f"; {quantized_sentence(config)}" if is_quantized(config) else ""
        raise ValueError(
            f"transformers cannot load {checkpoint.source}: {first_sentence(error)}{advice}"
        ) from None


def _refuse_incomplete(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a model whose missing weights transformers has filled with random numbers."""
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, found, expected = mismatched[0]
        raise ValueError(
            f"{name}: {tensor} has shape {list(found)}: expected {list(expected)}, as its "
            f"config.json has it ({len(mismatched)} such tensors)"
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name}: the checkpoint lacks {len(missing)} tensors, first {missing[0]}: expected "
            "a complete causal language model"
        )
