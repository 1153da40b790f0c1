"""Compare a trained policy with fixed draft lengths: `python evaluate.py [policy=DIR] …`."""

from adaspec_rl.scripts import evaluate

if __name__ == "__main__":
    evaluate()
