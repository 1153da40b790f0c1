"""The live environment of a pair, with a cost profile measured where it runs."""

from collections.abc import Callable, Sequence

from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import GROUPS, ObservationSpec
from adaspec_rl.data.prompts import EncodedPrompt, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.envs.reward import REWARDS, check_choice
from adaspec_rl.envs.spec_decode import TIMINGS, SpecDecodeEnv
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.replay.cost_profile import CostProfile, measure


def make_live_env(
    pair: Pair | None = None,
    prompts: Sequence[EncodedPrompt] | None = None,
    *,
    actions: str = "length",
    max_length: int = 8,
    features: Sequence[str] = GROUPS,
    reward: str = "throughput",
    timing: str = "profile",
    max_new_tokens: int = 128,
    sampling: Sampling = Sampling(),
    verification: str = "rejection",
    profile: CostProfile | None = None,
    profile_samples: int = 24,
    progress: Callable[[float], None] = lambda share: None,
) -> SpecDecodeEnv:
    """An environment over real decoding; by default of the embedded pair on its training prompts.

    Without a `profile`, one is measured first, from `profile_samples` rounds of each draft length.
    """
    pair = pair or load_pair("tiny", "tiny:target", ["tiny:draft"])
    choices = action_list(actions, max_length, len(pair.drafters))
    spec = ObservationSpec(tuple(features), max_length, pair.target.vocab_size)
    check_choice("reward", reward, REWARDS)
    check_choice("timing", timing, TIMINGS)
    if prompts is None:
        prompts = [EncodedPrompt(p, pair.encode(p.text)) for p in embedded_prompts("train")]
    session = pair.session(
        max_new_tokens=max_new_tokens, sampling=sampling, verification=verification
    )
    if profile is None:
        profile = measure(
            session,
            [item.ids for item in prompts],
            max_length=max_length,
            samples=profile_samples,
            progress=progress,
        )
    return SpecDecodeEnv(
        session,
        [item.ids for item in prompts],
        choices,
        spec,
        profile,
        reward=reward,
        timing=timing,
    )
