"""Checks once, when a model is loaded, whether it writes token by token; it reads eight tokens."""

import torch

from adaspec_rl.engine.checkpoint import first_sentence
from adaspec_rl.engine.language_model import LanguageModel

_TOKENS = 8
_NOISE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest logit
_ROUGH = 0.05  # in 16 bits; half of the tokens may even differ by more, as routers jump


def check_causality(model: LanguageModel, dtype: torch.dtype) -> None:
    """Read eight tokens at once, step by step, and with another end.

    Raises:
        ValueError: the logits of a token depend on later tokens, or on how the text is split into
            forward passes.
    """
    try:
        whole, steps, other = _readings(model)
    except (FloatingPointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the model's own code meets
        raise ValueError(
            f"{model.name} cannot be decoded: its forward fails on a few tokens and a cache "
            f"({first_sentence(error)})"
        ) from None
    _compare(
        model.name,
        _differences(whole[: len(other)], other),
        dtype,
        "its logits for a token depend on the tokens after it, as in an encoder",
    )
    _compare(
        model.name,
        _differences(whole, steps),
        dtype,
        "its logits differ between eight tokens read at once and one by one, as in a model "
        "without a key-value cache",
    )


def _readings(model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits `[8, V]` of eight tokens read at once and one by one; and of four with another end."""
    ids = torch.arange(1, 2 * _TOKENS, 2)
    tokens = (ids * model.vocab_size // (2 * _TOKENS))[None]  # [1, 8], spread over the vocabulary
    tokens = tokens[:, : model.context_length]
    width, half = tokens.shape[1], tokens.shape[1] // 2
    model.reset()
    whole = model.extend(tokens)[0]  # [8, V]
    model.rollback(half)
    steps = [model.extend(tokens[:, at : at + 1])[0] for at in range(half, width)]
    model.reset()
    first = [model.extend(tokens[:, at : at + 1])[0] for at in range(half)]
    model.reset()
    other = model.extend(torch.cat([tokens[:, :half], tokens.flip(1)[:, half:]], dim=1))[0, :half]
    model.check()
    model.release()
    return whole, torch.cat([*first, *steps]), other


def _differences(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The largest difference at each token, in units of the largest logit."""
    return (one - other).abs().amax(-1) / one.abs().max()


def _compare(name: str, differences: torch.Tensor, dtype: torch.dtype, fault: str) -> None:
    exact = dtype in _NOISE
    found = float(differences.max() if exact else differences.median())
    allowed = _NOISE.get(dtype, _ROUGH)
    if not found <= allowed:
        raise ValueError(
            f"{name} cannot be decoded: {fault} (by {found:.2g} of the largest logit, expected at "
            f"most {allowed:g}); expected a causal language model"
        )
