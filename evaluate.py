"""Compare a trained policy with every fixed draft length: `python evaluate.py [policy=DIR] …`."""

from adaspec_rl.scripts import evaluate

if __name__ == "__main__":
    evaluate()
