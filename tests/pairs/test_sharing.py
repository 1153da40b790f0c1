"""Pairs with drafters that share their target's embedding."""

import json
from pathlib import Path

import pytest

from adaspec_rl.comparison.memory import models_memory
from adaspec_rl.data.prompts import embedded_prompts
from adaspec_rl.decoding.drafters import DraftModel, HiddenStateDrafter
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.memory import weight_bytes
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import EMBEDDED
from tests.sharing import save_sharing

IDS = range(0, 4096, 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, target = tmp_path_factory.mktemp("drafters"), EMBEDDED / "target"
    made = {
        "trimmed": save_sharing(folder / "trimmed", target, output_tokens=IDS),
        "hidden": save_sharing(folder / "hidden", target, output_tokens=IDS, reads_hidden=True),
    }
    return {name: str(path) for name, path in made.items()}


@pytest.mark.parametrize("memory", ["shared", "resident", "offload"])
@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"dtype": "bfloat16"}])
def test_they_load_beside_others_and_hold_only_what_is_theirs(folders, memory, options):
    drafters = [folders["trimmed"], "tiny:draft", "ngram", folders["hidden"]]
    pair = load_pair("x", "tiny:target", drafters, LoadOptions(**options), memory=memory)
    assert [drafter.name for drafter in pair.drafters] == drafters
    trimmed, hidden = pair.drafters[0], pair.drafters[3]
    assert type(trimmed) is DraftModel and type(hidden) is HiddenStateDrafter
    figures = models_memory(pair)
    for drafter in (trimmed, hidden):
        weights, target = drafter.model.weights, pair.target.weights
        assert weights.embedding is target.embedding
        own = weight_bytes(weights, target)
        assert own < weight_bytes(weights) - 0.9 * weight_bytes(target.embedding)
        assert figures[drafter.name] == own / 2**20
    session = pair.session(max_new_tokens=12, sampling=Sampling())
    texts = []
    for schedule in ([FALLBACK], [Action(3, 0), Action(3, 3), Action(2, 1)]):
        session.start(pair.encode(embedded_prompts("test")[0].text))
        for turn in range(12):
            if session.finished:
                break
            session.step(schedule[turn % len(schedule)])
        texts.append(session.tokens)
    assert texts[0] == texts[1]


def test_the_fingerprint_covers_them(folders, tmp_path):
    def of(drafter: str) -> str:
        return load_pair("x", "tiny:target", [drafter]).fingerprint

    other = save_sharing(tmp_path / "other", EMBEDDED / "target", output_tokens=range(1366))
    assert len({of(folders["trimmed"]), of(folders["hidden"]), of(str(other))}) == 3


def test_targets_that_they_do_not_fit_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="needs the lean engine, but tiny:target runs in transf"):
        load_pair("x", "tiny:target", [folders["hidden"]], LoadOptions(engine="transformers"))
    with pytest.raises(ValueError, match=r"its hidden_size is 256, expected 192"):
        load_pair("x", "tiny:draft", [folders["hidden"]])
    with pytest.raises(ValueError, match="name it among model.drafters"):
        load_pair("x", folders["trimmed"], ["tiny:draft"])
    with pytest.raises(ValueError, match="shares the embedding of its target: expected drafter_sh"):
        load_pair("x", "tiny:target", [folders["trimmed"]], drafter_shape="llama1b")
    with pytest.raises(ValueError, match="no embedded model 'smollm2:none'"):
        load_pair("x", "tiny:target", ["smollm2:none"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_tokens": "many"}, "output_tokens is 'many': expected an integer or null"),
        ({"reads_hidden": 1}, "reads_hidden is 1: expected true or false"),
        ({"shares": False}, "shares is False: expected true"),
        ({"layers": 3}, "unknown 'layers'"),
    ],
)
def test_configurations_are_read_strictly(folders: dict[str, str], tmp_path, change, message):
    drafter = save_sharing(tmp_path / "drafter", EMBEDDED / "target", output_tokens=IDS)
    path = Path(drafter) / "config.json"
    config = json.loads(path.read_text())
    config["adaspec_drafter"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_pair("x", "tiny:target", [str(drafter)])
