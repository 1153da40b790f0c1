"""How many output rows a drafter should have: their cost and the drafts' accuracy.

    python benchmarks/output_rows.py --texts FOLDER --data chat_train.jsonl \\
        [--drafters smollm2:draft] [--rows 2048 4096 8192 16384] [--json PATH]

Each drafter shares its target's embedding. It gets the output rows of the tokens that the target is
likeliest to write in its own texts (as stored by `tools.distill`), whatever rows it was trained
with. All variants draft at every position of the target's answers to prompts that no training saw,
and their costs are measured in the same process. The table has, by temperature, the resulting
speedup at the best fixed draft length. Figures: `DRAFTER_ROWS_T`, and `DRAFTER_ROWS_step`: a
drafted token's time as a share of the target's.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from acceptance import ALL, recorded, survival
from report import finish
from rich.console import Console
from rich.table import Table

from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.prompts import balanced, jsonl_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.config_keys import SHARING
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.sharing import OUTPUT
from adaspec_rl.engine.weights import tensors_in
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.tools.distillation.drafter_folder import frequent_tokens, write_drafter
from adaspec_rl.tools.distillation.teacher_texts import TeacherTexts


def trimmed(drafter: Checkpoint, output_tokens: np.ndarray, folder: Path) -> None:
    """Write the drafter with the output rows of these tokens, ascending."""
    config = drafter.config()
    about = config.pop(SHARING)
    tensors = dict(tensors_in(drafter.weight_files(), lambda name: name != OUTPUT))
    write_drafter(
        folder,
        config,
        tensors,
        reads_hidden=about["reads_hidden"],
        output_tokens=output_tokens,
        dtype=torch.bfloat16,
    )


def speedup(shares: list[float], costs: RoundCosts, drafter: int) -> tuple[float, int]:
    """The best fixed length's speedup, and the length; `shares[k]` have `k + 1` tokens right."""
    found = []
    for length in range(1, len(shares) + 1):
        tokens = 1 + sum(shares[:length])
        found.append((tokens * costs.autoregressive_step / costs.seconds(drafter, length), length))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="smollm2")
    parser.add_argument("--drafters", nargs="+", default=["smollm2:draft"])
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=2, help="of the texts that are counted")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test-share", type=float, default=0.02, help="as in the training")
    parser.add_argument("--prompts", type=int, default=2, help="of each kind")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--length", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring costs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = TeacherTexts(options.texts, options.texts.resolve().name).read_all(options.shards)
    names = [f"{drafter}_{rows}" for drafter in options.drafters for rows in options.rows]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(len(names))]
        for number, path in enumerate(paths):
            source, rows = divmod(number, len(options.rows))
            drafter = checkpoint_of(options.drafters[source])
            size = drafter.config()["vocab_size"]
            trimmed(drafter, frequent_tokens(texts, options.rows[rows], size), path)
        pair = load_pair(
            "rows", options.target, [str(path) for path in paths], LoadOptions(dtype="auto")
        )
    asked = as_asked(
        balanced(jsonl_prompts(options.data, "test", options.test_share), options.prompts),
        "auto",
        pair.tokenizer,
    )
    prompts = [encode(pair.tokenizer, prompt).ids for prompt in asked]
    session = pair.session(max_new_tokens=options.max_new_tokens, sampling=Sampling())
    profile = measure(session, prompts, max_length=options.length, seconds=options.seconds)
    costs = profile.at(256)
    shares = {
        f"{temperature:g}": recorded(
            pair,
            prompts,
            [prompt.domain for prompt in asked],
            temperature,
            length=options.length,
            max_new_tokens=options.max_new_tokens,
        )
        for temperature in (0.0, 0.8)
    }
    table = Table("drafter, rows", "step", *(f"t {key}: speedup (length)" for key in shares))
    figures: dict[str, float] = {}
    for number, name in enumerate(names):
        figures[f"{name}_step"] = step = costs.draft_step[number] / costs.autoregressive_step
        cells = []
        for key, trace in shares.items():
            best, length = speedup(survival(trace, number, ALL), costs, number)
            figures[f"{name}_{key}"] = best
            cells.append(f"{best:.3f} ({length})")
        table.add_row(name, f"{step:.3f}", *cells)
    Console().print(table)
    depths = {
        name: {key: survival(trace, number, ALL) for key, trace in shares.items()}
        for number, name in enumerate(names)
    }
    finish(figures, options.json, details={"texts": len(prompts), "shares_by_depth": depths})


if __name__ == "__main__":
    main()
