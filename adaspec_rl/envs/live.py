"""The live environment of a pair, with a cost profile measured where it runs."""

from collections.abc import Callable, Sequence

from adaspec_rl.control.action import action_list, most_nodes
from adaspec_rl.control.observation import GROUPS
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.prompts import EncodedPrompt, embedded_prompts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.verification import Rule
from adaspec_rl.envs.reward import REWARDS, check_choice
from adaspec_rl.envs.spec_decode import TIMINGS, SpecDecodeEnv
from adaspec_rl.pairs.pair import Pair, load_pair


def make_live_env(
    pair: Pair | None = None,
    prompts: Sequence[EncodedPrompt] | None = None,
    *,
    actions: str | Sequence[Action] = "length",
    max_length: int = 8,
    features: Sequence[str] = GROUPS,
    reward: str = "throughput",
    timing: str = "profile",
    max_new_tokens: int = 128,
    sampling: Sampling = Sampling(),
    verification: Rule = "rejection",
    survival: Sequence[Survival] | None = None,
    profile: CostProfile | None = None,
    batch_size: int = 1,
    distance_price: float = 0.0,
    profile_samples: int = 24,
    progress: Callable[[float], None] = lambda share: None,
) -> SpecDecodeEnv:
    """An environment over real decoding; by default of the embedded pair on its training prompts.

    `actions` is a list of actions, or the name of such a list. Without a `profile`, costs are
    measured first, from at most `profile_samples` timings of each part of a round.
    """
    pair = pair or load_pair("tiny", "tiny:target", ["tiny:draft"])
    if isinstance(actions, str):
        actions = action_list(actions, max_length, len(pair.drafters))
    nodes = most_nodes(actions)
    spec = pair_observation(pair, features, max_length, trees=nodes > 0)
    check_choice("reward", reward, REWARDS)
    check_choice("timing", timing, TIMINGS)
    if prompts is None:
        prompts = [EncodedPrompt(p, pair.encode(p.text)) for p in embedded_prompts("train")]
    session = pair.session(
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        verification=verification,
        survival=survival,
    )
    ids = [item.ids for item in prompts]
    if profile is None:
        profile = measure(
            session,
            ids,
            max_length=max_length,
            samples=profile_samples,
            contexts=(64,),
            nodes=nodes,
            spec=spec,
            progress=progress,
        )
    return SpecDecodeEnv(
        session,
        ids,
        actions,
        spec,
        profile,
        reward=reward,
        timing=timing,
        batch_size=batch_size,
        distance_price=distance_price,
    )
