"""What a row's draft is expected to gain, before anything is drafted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec

PRICES = 2  # inputs of the network besides the observation


@dataclass(frozen=True, slots=True)
class Outlook:
    """A network that maps a row's observation and two prices to the worth of each drafted token.

    A token is verified if its estimated survival is at least `price`; a draft continues only after
    tokens whose survival is at least `stop`. The expected gain depends on both, so both are inputs.
    Costs themselves are not inputs, so one network serves every machine and load.
    """

    network: Actor
    spec: ObservationSpec
    depth: int  # K, the most tokens of a draft

    def __post_init__(self) -> None:
        weights = self.network.weights
        found = (weights[0].shape[0], weights[-1].shape[1])
        wanted = (len(self.spec) + PRICES, self.spec.drafters * self.depth * 2)
        if found != wanted:
            raise ValueError(
                f"the outlook's network has {found[0]} inputs and {found[1]} outputs: expected "
                f"{wanted[0]} and {wanted[1]}"
            )

    def __call__(
        self, observations: np.ndarray, prices: Sequence[tuple[float, float]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate observations `[n, F]` at `P` pairs of `price` and `stop`.

        Returns two arrays `[P, n, D, K]`. The first has the accepted tokens that drafted token 1,
        2, … adds, less `price` if it is verified. The second has the chance that the token is
        drafted at all, if that many are asked for.
        """
        weights, biases = self.network.weights, self.network.biases
        seen = len(self.spec)
        told = np.array(prices, dtype=np.float32) @ weights[0][seen:] + biases[0]  # [P, H]
        values = observations @ weights[0][:seen] + told[:, None]  # read once, whatever the prices
        for weight, bias in zip(weights[1:], biases[1:]):
            values = np.tanh(values) @ weight + bias
        values = values.reshape(*values.shape[:2], 2, self.spec.drafters, self.depth)
        return values[:, :, 0], np.clip(values[:, :, 1], 0.0, 1.0)


def outcomes(
    survival: np.ndarray, accepted: np.ndarray, price: np.ndarray, stop: np.ndarray
) -> np.ndarray:
    """The values that an outlook is trained to predict, `[n, 2, D, K]`, from recordings.

    Args:
        survival: `[n, D, K]`, estimated; 0 where nothing could be drafted.
        accepted: `[n, D]`, acceptance lengths.
        price, stop: `[n]` each.
    """
    before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
    drafted = (before >= stop[:, None, None]) & (survival > 0)
    hit = np.arange(survival.shape[2]) < accepted[..., None]
    verified = drafted & (survival >= price[:, None, None])
    worth = np.where(verified, hit - price[:, None, None], 0.0)
    return np.stack([worth, drafted], axis=1)
