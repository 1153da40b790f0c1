"""Train a policy that controls speculative decoding: `python train_policy.py [model=llama] …`."""

from adaspec_rl.scripts import train

if __name__ == "__main__":
    train()
