"""What token trees cost and bring, live, beside chains.

    python benchmarks/trees.py --target smollm2 --drafters smollm2:draft ngram smollm2:table \\
        --data chat_train.jsonl [--prompts 2] [--temperature T] [--json PATH]

First, this times the target's forward pass over the nodes of a tree and over a chain as wide, and
the keeping of an accepted path. Then all methods take turns to decode the prompts, each with one
action throughout: a chain, a tree, or several drafters' chains merged into a tree. Texts must equal
plain decoding's. Figures: `tree_N` and `chain_N`, medians in ms; `keep_ms`; each method's speedup
over plain decoding, tokens over seconds; `best_chain`, `best_tree` and `best_merged`, the best of
each kind, in hindsight on these prompts.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from report import finish
from rich.console import Console
from rich.progress import track
from rich.table import Table

from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.prompts import balanced, embedded_prompts, jsonl_prompts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import Pair, load_pair

NODES = (1, 2, 4, 8, 16, 32)
PLAIN = "plain"


Clock = Callable[[], float]


def median_ms(
    call: Callable[[], object], after: Callable[[], None], repeats: int, clock: Clock
) -> float:
    seconds = []
    for _ in range(repeats):
        began = clock()
        call()
        seconds.append(clock() - began)
        after()
    return 1000 * statistics.median(seconds)


def forward_costs(pair: Pair, context: int, repeats: int, clock: Clock) -> dict[str, float]:
    """Times of passes over the last token and drafts of `NODES` nodes, after `context` tokens."""
    target, figures = pair.target, {}
    text = torch.arange(context)[None] % 1000 + 100
    target.reset()
    target.extend(text, keep=1)

    def back() -> None:
        target.rollback(context)

    for nodes in NODES:
        tokens = text[:, : nodes + 1]
        chain, forks = range(-1, nodes), [-1, *((n - 1) // 2 for n in range(1, nodes + 1))]
        for name, parents in (("chain", list(chain)), ("tree", forks)):
            figures[f"{name}_{nodes}_{context}"] = median_ms(
                partial(target.extend_tree, tokens, parents), back, repeats, clock
            )
    parents = [-1, 0, 0, 1, 2, 3, 4]

    def again() -> None:
        target.rollback(context)
        target.extend_tree(text[:, : len(parents)], parents)

    again()
    figures[f"keep_ms_{context}"] = median_ms(
        lambda: target.keep_path(context, (0, 2, 4, 6)), again, repeats, clock
    )
    return figures


def shape(*parents: int) -> TreeShape:
    ranks = tuple(parents[:node].count(parent) for node, parent in enumerate(parents))
    return TreeShape(parents, ranks)


TREES = {
    "2": shape(-1, -1),
    "3": shape(-1, -1, -1),
    "2-1": shape(-1, -1, 0),
    "2-2": shape(-1, -1, 0, 1),
    "2-1-1": shape(-1, -1, 0, 2),
    "3-1": shape(-1, -1, -1, 0),
    "3-2-1": shape(-1, -1, -1, 0, 1, 3),
    "4-2-1": shape(-1, -1, -1, -1, 0, 1, 4),
}


def methods_of(names: Sequence[str]) -> dict[str, Action]:
    """Fixed actions by name."""
    found = {PLAIN: FALLBACK}
    numbers = range(len(names))
    for number in numbers:
        found |= {f"{names[number]} {n}": Action(n, number) for n in (1, 2, 3, 4, 6, 8)}
        if names[number] != "ngram":
            found |= {
                f"{names[number]} tree {name}": Action(tree.depth, number, tree=tree)
                for name, tree in TREES.items()
            }
    sets = [(a, b) for a in numbers for b in numbers if a < b]
    for together in [*sets, tuple(numbers)] if len(names) > 2 else sets:
        label = "+".join(names[number] for number in together)
        found |= {
            f"{label} {n}": Action(n, together[0], also=together[1:]) for n in (1, 2, 3, 4, 6)
        }
    return found


def speeds(
    pair: Pair,
    prompts: Sequence[list[int]],
    methods: Mapping[str, Action],
    *,
    temperature: float,
    max_new_tokens: int,
    clock: Clock,
) -> dict[str, dict[str, float]]:
    """By method: speedup over plain decoding, tokens a round, drafted tokens a round."""
    session = pair.session(
        max_new_tokens=max_new_tokens, sampling=Sampling(temperature), verification="coupled"
    )
    session.clock = clock
    sums = {name: [0, 0.0, 0, 0] for name in methods}  # tokens, seconds, rounds, drafted
    for number, ids in enumerate(track(prompts, "methods")):
        texts = set()
        order = list(methods.items())
        for name, action in order[number % len(order) :] + order[: number % len(order)]:
            session.start(ids, number, signals=False)
            played = []
            while session.finished is None:
                played.append(session.step(action))
            texts.add(tuple(session.tokens))
            for place, value in enumerate(
                (
                    len(session.tokens),
                    sum(r.seconds for r in played),
                    len(played),
                    sum(r.drafted for r in played),
                )
            ):
                sums[name][place] += value
        assert len(texts) == 1, f"texts differ after prompt {number}"
    plain = sums[PLAIN][0] / sums[PLAIN][1]
    return {
        name: {
            "speedup": tokens / seconds / plain,
            "tokens_a_round": tokens / rounds,
            "drafted_a_round": drafted / rounds,
        }
        for name, (tokens, seconds, rounds, drafted) in sums.items()
    }


def best_of(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The best speedup of each kind."""

    def kind(name: str) -> str:
        return "tree" if " tree " in name else "merged" if "+" in name else "chain"

    best: dict[str, float] = {}
    for name, figures in found.items():
        if name != PLAIN:
            key = f"best_{kind(name)}"
            best[key] = max(best.get(key, 0.0), figures["speedup"])
    return best


def prompts_of(pair: Pair, options: argparse.Namespace) -> list[list[int]]:
    prompts = embedded_prompts("train")
    if options.data is not None:
        prompts = jsonl_prompts(options.data, "train", 0.0)
    short = [prompt for prompt in prompts if len(prompt.text) <= options.most]
    asked = as_asked(balanced(short, options.prompts), "auto", pair.tokenizer)
    return [encode(pair.tokenizer, prompt).ids for prompt in asked]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="tiny:target")
    parser.add_argument("--drafters", nargs="+", default=["tiny:draft", "ngram", "tiny:table"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data", type=Path, help="training prompts; the embedded ones by default")
    parser.add_argument("--prompts", type=int, default=2, help="of each domain")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--contexts", nargs="*", type=int, default=[128, 512])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--methods", nargs="*", help="their names in the table; all by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--most", type=int, default=1500, help="characters of a prompt")
    parser.add_argument(
        "--busy", action="store_true", help="the machine is: one thread, whose own time counts"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.busy else options.threads)
    clock = time.process_time if options.busy else time.perf_counter
    pair = load_pair("trees", options.target, options.drafters, LoadOptions(dtype=options.dtype))
    figures: dict[str, float] = {}
    for context in options.contexts:
        figures |= forward_costs(pair, context, options.repeats, clock)
    names = [drafter.name.rpartition(":")[2] for drafter in pair.drafters]
    methods = {
        name: action
        for name, action in methods_of(names).items()
        if not options.methods or name in (PLAIN, *options.methods)
    }
    found = speeds(
        pair,
        prompts_of(pair, options),
        methods,
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        clock=clock,
    )
    table = Table("method", "speedup", "tokens a round", "drafted")
    for name, row in sorted(found.items(), key=lambda item: -item[1]["speedup"]):
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)
    finish(figures | best_of(found), options.json, details={"methods": found})


if __name__ == "__main__":
    main()
