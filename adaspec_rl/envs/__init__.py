"""Gymnasium environments. Importing this package registers them.

>>> import gymnasium as gym
>>> import adaspec_rl.envs
>>> env = gym.make("adaspec/SpecDecode-v0")
>>> observation, info = env.reset(seed=0)
>>> observation, reward, terminated, truncated, info = env.step(3)  # draft 3 tokens

Hundreds of recorded texts side by side, natively batched:

>>> env = gym.make_vec("adaspec/SpecDecodeReplay-v0", num_envs=256)

Batches of recorded texts that share every round, of 1 to 512 rows:

>>> env = gym.make("adaspec/SpecDecodeBatch-v0")
"""

import gymnasium

gymnasium.register(
    id="adaspec/SpecDecode-v0",
    entry_point="adaspec_rl.envs.live:make_live_env",
    nondeterministic=True,  # seconds are measured
)
gymnasium.register(
    id="adaspec/SpecDecodeReplay-v0",
    entry_point="adaspec_rl.envs.replay:make_replay_env",
    vector_entry_point="adaspec_rl.envs.replay:make_replay_vector_env",
)
gymnasium.register(
    id="adaspec/SpecDecodeBatch-v0",
    entry_point="adaspec_rl.envs.batch:make_batch_env",
)
