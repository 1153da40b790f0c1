"""A target spread over processes: the first one decides, and all compute a share of each forward.

`torchrun` starts the processes, and transformers splits the matrices. Only the first process runs
the program; it tells the others which tokens to read and how far to roll back.
"""

import atexit
import os
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig

from adaspec_rl.engine.transformers_model import TransformersModel

PATIENCE = timedelta(days=7)  # without a forward pass, such as while a policy learns
FIRST = 0

Command: TypeAlias = tuple[Any, ...]  # the name of a method and its arguments


def rank() -> int:
    """This process's number among those that `torchrun` started; 0 without it."""
    return int(os.environ.get("RANK", FIRST))


def join(size: int) -> None:
    """Join the group of `size` processes that `torchrun` started; it may be joined already.

    Raises:
        ValueError: there are more or fewer processes.
    """
    found = int(os.environ.get("WORLD_SIZE", 1))
    if found != size:
        raise ValueError(
            f"model.tensor_parallel={size} needs {size} processes, but there "
            f"{'is' if found == 1 else 'are'} {found}: run torchrun --nproc-per-node {size} PROGRAM"
        )
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)


def check_plan(config: PreTrainedConfig, name: str) -> None:
    """Refuse a model that transformers cannot split.

    Raises:
        ValueError: it has no plan for this architecture.
    """
    text: Any = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise ValueError(
            f"transformers has no plan to split {name} ({text.model_type}): leave "
            "model.tensor_parallel out, or spread its layers with model.device_map"
        )


class LeadingModel(TransformersModel):
    """The target in the first process, which the others follow until this process ends."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.execution += f", split over {dist.get_world_size()} processes"
        atexit.register(_end)

    def reset(self, batch: int = 1, length: int = 0) -> None:
        _tell("reset", batch, length)
        super().reset(batch, length)

    def rollback(self, lengths: torch.Tensor | int) -> None:
        super().rollback(lengths)
        _tell("rollback", self._length)

    def _forward(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        _tell("_forward", tokens.cpu(), keep)
        try:
            return super()._forward(tokens, keep)
        except BaseException:  # the others wait within the pass: `torchrun` has to end them
            atexit.unregister(_end)
            raise


@torch.inference_mode()
def follow(model: TransformersModel) -> None:
    """Do what the first process tells this one, until it ends."""
    while (command := _heard()) is not None:
        name, *arguments = command
        on_device = [
            argument.to(model.device) if isinstance(argument, torch.Tensor) else argument
            for argument in arguments
        ]
        getattr(model, name)(*on_device)
    dist.destroy_process_group()


def _tell(*command: Any) -> None:
    _broadcast(command)


def _end() -> None:
    _broadcast(None)
    dist.destroy_process_group()


def _heard() -> Command | None:
    return _broadcast(None)


def _broadcast(command: Command | None) -> Command | None:
    box = [command]
    dist.broadcast_object_list(box, src=FIRST, device=torch.device("cpu"))
    return box[0]
