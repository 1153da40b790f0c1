"""How models are loaded and run: one object, from the configuration to the engine."""

from dataclasses import dataclass, replace

import torch

from adaspec_rl.engine.cpu.choice import fastest_dtype
from adaspec_rl.engine.quantization import QUANTIZATIONS

ENGINES = ("auto", "lean", "transformers")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options that apply to a target and to its draft models.

    Raises:
        ValueError: an option is unknown, or two do not fit together.
    """

    dtype: str | torch.dtype = "float32"  # a torch dtype, its name, or auto (see `numbers`)
    device: str | torch.device = "cpu"
    device_map: str | None = None  # spreads the target over devices, as transformers understands it
    tensor_parallel: int | None = None  # splits it over so many processes, see `tensor_parallel`
    # lean is ours, for Llama, Mistral, Qwen2 and Qwen3; transformers runs anything; auto is the
    # first where it can be, and says so where it cannot.
    engine: str = "auto"
    kernels: str = "auto"  # the lean engine's on CPUs: auto, compiled or torch
    quantize: str | None = None  # int8 (on GPUs it needs torchao), on CPUs also int4: the weights
    compile: bool = False  # run the lean engine's narrow CUDA forwards through torch.compile

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is unknown: expected one of {ENGINES}")
        if self.quantize is not None and self.quantize not in QUANTIZATIONS:
            raise ValueError(
                f"quantize={self.quantize!r} is unknown: expected one of {QUANTIZATIONS}"
            )
        if self.engine == "lean" and self.spread:
            option = "device_map" if self.tensor_parallel is None else "tensor_parallel"
            raise ValueError(
                f"{option} needs engine='transformers': the lean engine has one device"
            )
        if self.tensor_parallel is not None and (self.device_map or self.quantize):
            other = "device_map" if self.device_map else "quantize"
            raise ValueError(f"tensor_parallel and {other} do not go together: leave one out")

    @property
    def spread(self) -> bool:
        """Whether the target is on several devices or in several processes."""
        return self.device_map is not None or self.tensor_parallel is not None

    @property
    def of_drafters(self) -> "LoadOptions":
        """The options of the target's draft models, which are never spread."""
        return replace(self, device_map=None, tensor_parallel=None)

    @property
    def numbers(self) -> torch.dtype:
        """The floating-point type; `auto` is bfloat16 on GPUs, and the faster type on CPUs.

        Raises:
            ValueError: there is no type of that name.
        """
        if isinstance(self.dtype, torch.dtype):
            return self.dtype
        return dtype_named(
            self.dtype, self.device, "torch" if self.engine == "transformers" else self.kernels
        )


def dtype_named(
    name: str, device: str | torch.device = "cpu", kernels: str = "auto"
) -> torch.dtype:
    """The floating-point type of that name; `auto` is bfloat16 on GPUs, the faster one on CPUs.

    Raises:
        ValueError: there is no such type.
    """
    if name == "auto":
        return fastest_dtype(kernels) if torch.device(device).type == "cpu" else torch.bfloat16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"unknown dtype {name!r}: expected auto, float32, bfloat16 or float16")
    return dtype
