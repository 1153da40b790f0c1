"""What a row's draft is expected to gain, before anything is drafted."""

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
        self, observations: np.ndarray, price: float, stop: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate observations `[n, F]`. Returns two arrays `[n, D, K]`.

        The first has the accepted tokens that drafted token 1, 2, … adds, less `price` if it is
        verified. The second has the chance that the token is drafted at all, if that many are asked
        for.
        """
        prices = np.full((len(observations), PRICES), (price, stop), dtype=np.float32)
        made = self.network(np.concatenate([observations, prices], axis=1))
        made = made.reshape(len(observations), 2, self.spec.drafters, self.depth)
        return made[:, 0], np.clip(made[:, 1], 0.0, 1.0)


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
