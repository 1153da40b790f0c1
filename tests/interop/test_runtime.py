"""The runtime in other engines' processes: light, the same decisions as ours, and as elsewhere."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from adaspec_rl.control.generation import generate
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.interop.llama_cpp import LookupDraft
from adaspec_rl.interop.runtime import LookupPolicy, LookupText, restricted
from adaspec_rl.interop.vllm import LookupProposer
from tests.interop.shop import LOOKUP, PROMPTS, shop, toys
from tests.recording.recordings import toy_recording

GROUPS = ("history", "drafters", "context", "lookup", "cost")
LIGHT = """
import sys, time
for name in ("torch", "stable_baselines3", "gymnasium", "transformers", "hydra", "wandb", "vllm"):
    sys.modules[name] = None
import numpy
began = time.process_time()
import adaspec_rl.interop.runtime, adaspec_rl.interop.vllm
import adaspec_rl.interop.sglang, adaspec_rl.interop.llama_cpp
print(time.process_time() - began)
"""
DECIDE = """
import json, sys
from pathlib import Path
from adaspec_rl.interop.runtime import LookupPolicy, LookupText
from adaspec_rl.interop.sglang import LearnedSteps
lookups, sglang = Path(sys.argv[1]), Path(sys.argv[2])
text = LookupText(LookupPolicy.load(lookups, 1))
text.start([1, 2, 1])
made = []
for n in range(200):
    made.append(text.propose(1 + n % 3, 8))
    text.committed([*made[-1][: n % 3], (n * n) % 7])
steps = LearnedSteps.load(sglang)
for n in range(200):
    made.append(steps.get_steps_for_batch(1 + n % 5))
    steps.on_verify_complete([n % 4, n % 3], 1 + n % 5)
print(json.dumps(made))
"""


def run(code: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtime_needs_no_torch_and_imports_at_once():
    assert min(float(run(LIGHT)) for _ in range(2)) < 0.3


def test_two_processes_decide_the_same(exports):
    found = [run(DECIDE, exports["vllm"][0], exports["sglang"][0]) for _ in range(2)]
    assert found[0] == found[1]
    made = json.loads(found[0])
    assert {len(draft) for draft in made[:200]} > {0} and len(set(made[200:])) > 1


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_drafts_are_those_of_decoding_with_the_same_policy(groups, tmp_path):
    own = shop(tmp_path, groups=groups)
    session = toys().session(toy_recording(max_new_tokens=24), list(own.bundle.survival))
    controller = restricted(own.bundle, LOOKUP)
    policy = LookupPolicy(own.bundle, own.costs, LOOKUP)
    lengths = set()
    for prompt in PROMPTS:
        made = generate(session, controller, prompt, cost=policy.features(1))
        text = LookupText(policy)
        text.start(prompt)
        left = 24
        for played, action in zip(made.rounds, made.actions):
            assert text.decide() == action
            draft = text.propose(room=left - 1)
            assert len(draft) == played.drafted
            assert tuple(draft) == (*played.tokens, *played.rejected)[: len(draft)] or (
                draft[: played.accepted] == list(played.tokens[: played.accepted])
                and draft[played.accepted :] == list(played.rejected)
            )
            text.committed(played.tokens)
            lengths.add(len(draft))
            left -= len(played.tokens)
    assert len(lengths) > 2


def vllm_config(most: int = 4, longest: int = 64) -> SimpleNamespace:
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=most),
        model_config=SimpleNamespace(max_model_len=longest),
    )


def proposer(folder, most: int = 4, longest: int = 64) -> LookupProposer:
    """As vLLM makes it from the exported module."""
    return type("Proposer", (LookupProposer,), {"folder": folder, "drafter": LOOKUP})(
        vllm_config(most, longest)
    )


def test_the_exported_module_is_what_vllm_imports(exports):
    folder, _ = exports["vllm"]
    config = json.loads((folder / "speculative_config_lookup.json").read_text())
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]); "
        "module, name = sys.argv[2].rsplit('.', 1); "
        "from types import SimpleNamespace as N; "
        "made = getattr(importlib.import_module(module), name)("
        "N(speculative_config=N(num_speculative_tokens=4), model_config=N(max_model_len=64))); "
        "made.load_model(); import numpy; "
        "print(made.propose(sampled_token_ids=[[2], []], num_tokens_no_spec=[5, 3], "
        "token_ids_cpu=numpy.array([[1, 2, 3, 1, 2, 0]] * 2), slot_mappings=None))"
    )
    found = json.loads(run(code, folder, config["model"]))
    assert len(found) == 2 and found[1] == [] and len(found[0]) <= 4


def test_requests_come_and_go_and_end(exports):
    folder, _ = exports["vllm"]
    one = proposer(folder)
    table = np.zeros((2, 64), dtype=np.int32)
    texts = [[1, 2, 1, 2, 1], [3, 4, 5]]
    fresh = LookupPolicy.load(folder, LOOKUP)
    for step in range(12):
        if step == 6:
            texts[1] = [7, 8, 7, 8, 7, 8, 7]  # another request took the row
        new = [[texts[0][-1]], [texts[1][-1]] if step % 3 else []]
        for row, text in enumerate(texts):
            table[row, : len(text)] = text
        counts = np.array([len(text) for text in texts])
        drafts = one.propose(new, counts, table)
        assert all(isinstance(draft, list) and len(draft) <= 4 for draft in drafts)
        assert step % 3 or drafts[1] == []  # its prompt is still being read
        alone = LookupText(fresh)
        alone.start(texts[0])
        rows = sum(map(bool, new))
        if "history" not in fresh.bundle.spec.groups:
            # What is generated counts from where a text was first seen.
            assert one._texts[0].tokens == texts[0] == alone.tokens and rows
        texts[0].append(int((texts[0][-1] * 3 + step) % 5))
        if new[1]:
            texts[1].append(7)


def test_nothing_is_drafted_beyond_the_longest_text(exports):
    one = proposer(exports["vllm"][0], most=4, longest=12)
    for count, most in ((11, 0), (10, 1), (8, 3)):
        tokens = np.array([[1, 2] * 6])
        (draft,) = one.propose([[int(tokens[0, count - 1])]], np.array([count]), tokens)
        assert len(draft) <= most


def test_a_draft_model_for_llama_cpp_python_follows_the_text(exports):
    folder, _ = exports["llama.cpp"]
    draft = LookupDraft.load(folder, LOOKUP)
    text = [1, 2, 3, 1, 2, 3, 1]
    for token in (2, 3, 1, 2, 3):
        found = draft(np.array(text, dtype=np.intc))
        assert found.dtype == np.intc and found.ndim == 1
        again = draft(np.array(text, dtype=np.intc))  # asked twice, as after a failed evaluation
        assert (found == again).all()
        assert found.tolist() == [(text[-1] + n) % 3 + 1 for n in range(len(found))]
        text.append(token)
    assert len(draft(np.array([9, 8, 7], dtype=np.intc))) == 0  # another text, nothing repeats


def test_the_lookup_is_the_one_that_decodes():
    assert NgramLookup.name == "ngram" and toys().drafters[LOOKUP].name == "ngram"
