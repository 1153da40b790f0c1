"""Rotary position embeddings, with every scaling that supported configurations can name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

KINDS = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions become angles. Field names are those of transformers' `rope_parameters`."""

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    @staticmethod
    def from_config(parameters: Mapping[str, Any], context_length: int) -> "Rope":
        """Read `rope_parameters`; `context_length` is the configuration's.

        Raises:
            ValueError: names a kind or a value that is not supported.
        """
        values = dict(parameters)
        kind = values.pop("type", None)
        kind = values.setdefault("rope_type", kind or "default")
        if kind not in KINDS:
            raise ValueError(f"rope_type={kind!r} is not supported: expected one of {KINDS}")
        share = values.get("partial_rotary_factor")
        if share not in (None, 1):
            raise ValueError(f"partial_rotary_factor={share!r} is not supported: expected 1")
        values = {key: value for key, value in values.items() if key in ROPE_KEYS}
        if kind in ("yarn", "llama3") and values.get("original_max_position_embeddings") is None:
            values["original_max_position_embeddings"] = context_length
        if kind == "yarn" and values.get("factor") is None:
            values["factor"] = context_length / values["original_max_position_embeddings"]
        if kind != "default" and values.get("factor") is None:
            raise ValueError(f"rope_parameters.factor is missing: rope_type={kind!r} needs it")
        return Rope(**values)

    def table(self, length: int, head_dim: int, device: torch.device) -> torch.Tensor:
        """The rotation at each position, `[length, head_dim / 2]` complex64."""
        inverse = self._inverse_frequencies(head_dim)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse
        scale = torch.full_like(angles, self._attention_scale())
        return torch.polar(scale, angles).to(device)

    def _inverse_frequencies(self, dim: int) -> torch.Tensor:
        inverse = 1.0 / (self.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        if self.rope_type == "linear":
            assert self.factor is not None
            return inverse / self.factor
        if self.rope_type == "yarn":
            return self._yarn(inverse, dim)
        if self.rope_type == "llama3":
            return self._llama3(inverse)
        return inverse  # `dynamic` differs only beyond the trained context, which is refused

    def _yarn(self, inverse: torch.Tensor, dim: int) -> torch.Tensor:
        """YaRN (Peng et al. 2023): interpolate long wavelengths, keep short ones, ramp between."""
        assert self.factor is not None and self.original_max_position_embeddings is not None
        original = self.original_max_position_embeddings

        def dimension(rotations: float) -> float:  # which turns this often in the context
            turns = original / (rotations * 2 * math.pi)
            return dim * math.log(turns) / (2 * math.log(self.rope_theta))

        low, high = dimension(self.beta_fast or 32), dimension(self.beta_slow or 1)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        span = high - low or 0.001
        ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
        return inverse / self.factor * ramp + inverse * (1 - ramp)

    def _llama3(self, inverse: torch.Tensor) -> torch.Tensor:
        assert self.factor is not None and self.original_max_position_embeddings is not None
        low, high = self.low_freq_factor, self.high_freq_factor
        turns = self.original_max_position_embeddings * inverse / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)  # 0: interpolate, 1: leave as it is
        return (1 - keep) * inverse / self.factor + keep * inverse

    def _attention_scale(self) -> float:
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)

    def _mscale(self, mscale: float) -> float:
        assert self.factor is not None
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


ROPE_KEYS = frozenset(field.name for field in fields(Rope))
