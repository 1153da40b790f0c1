"""From a checkpoint to a model that runs."""

from pathlib import Path
from typing import Any

import torch

from adaspec_rl.engine.architecture import FAMILIES, Architecture
from adaspec_rl.engine.checkpoint import Checkpoint, hub_failure
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.memory import out_of_memory
from adaspec_rl.engine.quantization import QUANTIZATIONS, quantize_module, quantize_weights
from adaspec_rl.engine.transformers_model import TransformersModel
from adaspec_rl.engine.weights import load_weights, tensors_in

ENGINES = ("auto", "lean", "transformers")


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    device_map: str | None = None,
    name: str | None = None,
    engine: str = "auto",
    quantize: str | None = None,
    context_length: int | None = None,
    compile: bool = False,
) -> LanguageModel:
    """Load a causal language model from a folder or from the Hugging Face Hub.

    Args:
        source: a checkpoint folder, or a hub id such as `Qwen/Qwen3-0.6B`.
        device_map: spread the model over devices, as transformers understands it.
        name: what messages call the model; by default the last part of `source`.
        engine: `lean` is ours, for Llama, Mistral, Qwen2 and Qwen3; `transformers` runs anything;
            `auto` is the first where it can be.
        quantize: `int8` stores the weights in 8 bits (needs torchao).
        context_length: the most tokens in one row; by default the configuration's.
        compile: run the lean engine's narrow CUDA forwards through torch.compile.

    Raises:
        ValueError: the checkpoint cannot be found, fetched or understood, or an option is unknown.
        OutOfMemory: the model does not fit in the device's memory.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown: expected one of {ENGINES}")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(f"quantize={quantize!r} is unknown: expected one of {QUANTIZATIONS}")
    if engine == "lean" and device_map is not None:
        raise ValueError("device_map needs engine='transformers': the lean engine has one device")
    device = torch.device(device)
    checkpoint = Checkpoint(source)
    config = checkpoint.config()
    name = name or Path(str(source)).name
    if engine == "auto":
        lean = config.get("model_type") in FAMILIES and device_map is None
        engine = "lean" if lean else "transformers"
    try:
        if engine == "transformers":
            return _load_transformers(
                checkpoint, dtype, device, device_map, name, quantize, context_length
            )
        architecture = Architecture.from_config(config)
        weights = load_weights(
            architecture, tensors_in(checkpoint.weight_files()), dtype=dtype, device=device
        )
        if quantize is not None:
            quantize_weights(weights, quantize)
        return LeanModel(
            architecture, weights, name, context_length=context_length, compile=compile
        )
    except torch.OutOfMemoryError as error:
        raise out_of_memory(name, error) from error


def _load_transformers(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    device_map: str | None,
    name: str,
    quantize: str | None,
    context_length: int | None,
) -> TransformersModel:
    from transformers import AutoModelForCausalLM  # slow to import, and only some models need it

    options: dict[str, Any] = {"dtype": dtype}
    if device_map is not None:
        options["device_map"] = device_map
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.source, **options)
    except (OSError, ValueError, ImportError) as error:
        if checkpoint.local:
            reason = " ".join(str(error).split())
            raise ValueError(f"transformers cannot load {checkpoint.source}: {reason}") from None
        raise ValueError(hub_failure(checkpoint.source, error)) from None
    if device_map is None:
        torch.nn.Module.to(model, device)  # its own `to` is not typed
    if quantize is not None:
        quantize_module(model, quantize)
    return TransformersModel(model, name, context_length=context_length)
