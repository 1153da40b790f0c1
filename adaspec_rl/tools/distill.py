"""Train a drafter for a target: `python -m adaspec_rl.tools.distill model.target=... out=FOLDER`.

The drafter starts as some of the target's own layers between the target's own embeddings, or as a
narrower model of the same architecture. It learns the target's distributions over texts that the
target wrote itself (DistillSpec, arXiv:2310.08461). These distributions are stored with the texts,
so that training does not run the target again. Repeating the command resumes a killed run.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from adaspec_rl.console import progress, standard_output
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.fingerprint import fingerprint
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.settings import describe, one_line_errors, parse
from adaspec_rl.tools.acceptance import acceptance_rate
from adaspec_rl.tools.distillation.config import DistillConfig
from adaspec_rl.tools.distillation.drafter_folder import WrittenDrafter, read_drafter
from adaspec_rl.tools.distillation.folder import DistillationFolder, training_record
from adaspec_rl.tools.distillation.model import FRESH, LAYERS, DraftPlan, plan_draft
from adaspec_rl.tools.distillation.prompts import Prompts, read_prompts
from adaspec_rl.tools.distillation.texts import divided, encoded, stored_texts, teacher_texts
from adaspec_rl.tools.distillation.training import Training

DRAFT_LENGTH = 4  # the draft length at which acceptance is measured


@dataclass(frozen=True, slots=True)
class Distillation:
    """A training, with everything that is known before it starts."""

    config: DistillConfig
    source: Checkpoint
    begun: WrittenDrafter | None  # the finished drafter that training starts from
    target: str  # its fingerprint
    plan: DraftPlan
    prompts: Prompts
    context: int  # tokens
    device: str
    dtype: str

    @staticmethod
    def of(config: DistillConfig) -> "Distillation":
        """Read the target's configuration and the prompts.

        Raises:
            ValueError: the target, its architecture, the data or a setting is invalid.
        """
        if config.init == FRESH and (config.reads_hidden or config.vocabulary is not None):
            raise ValueError(
                "init=fresh has embeddings of its own: expected reads_hidden=false and "
                "vocabulary=null, or init=layers"
            )
        source = checkpoint_of(config.model.target)
        source.config()  # explains what is missing better than transformers does
        prompts = read_prompts(config.data, config.test_share)
        target = AutoConfig.from_pretrained(source.source, trust_remote_code=False)
        context = int(getattr(target, "max_position_embeddings", 2**31))
        for key in ("sequence_length", "max_new_tokens"):
            if getattr(config, key) > context:
                raise ValueError(
                    f"{key}={getattr(config, key)} does not fit into the target's context: "
                    f"expected at most {context}"
                )
        if config.stored is not None:
            stored_texts(config, config.stored)
        begun = None if config.init in (LAYERS, FRESH) else _begun(config, source)
        plan = plan_draft(target, init=config.init, layers=config.layers, width=config.width)
        device, dtype = config.model.placement()
        return Distillation(
            config, source, begun, fingerprint([source]), plan, prompts, context, device, dtype
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the result depends on, without the locations of files."""
        values = asdict(self.config)
        for key in ("model", "data", "stored", "out", "threads"):
            del values[key]
        sources = {"target": self.target, "data": self.prompts.fingerprint, "dtype": self.dtype}
        if self.begun is not None:
            values["init"] = fingerprint([checkpoint_of(self.config.init)])
        return {**sources, **values}


def _begun(config: DistillConfig, target: Checkpoint) -> WrittenDrafter:
    """The drafter of `init=FOLDER`, which must match the other settings."""
    wanted = {**target.config(), "num_hidden_layers": config.layers}
    return read_drafter(
        checkpoint_of(config.init),
        wanted,
        reads_hidden=config.reads_hidden,
        count=config.vocabulary,
    )


def distill(config: DistillConfig) -> dict[str, Any]:
    """Train or resume the drafter that `config` describes; returns the content of `training.json`.

    Raises:
        ValueError: a setting, the target or the data is invalid, or the folder is taken.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run = Distillation.of(config)
    folder = DistillationFolder(Path(config.out).expanduser())
    if finished := folder.claim(run.settings):
        return finished
    texts = divided(
        teacher_texts(config, run.prompts.train, folder.texts),
        config.test_share,
        encoded(run.source.tokenizer(), run.prompts.test, config, run.context),
    )
    training = Training.of(config, run.source, run.begun, run.plan, texts)
    stages = {"untrained": folder.work / "untrained", "trained": folder.work / "trained"}
    result = training.run(folder.checkpoint, run.device, *stages.values())
    if run.plan.sources is None:
        _copy_generation_config(run.source.source, stages["trained"])
    rates = _acceptance(run, list(stages.values()))
    record = {
        "target": config.model.target,
        "data": config.data,
        "settings": run.settings,
        "texts": texts.about,
        "result": asdict(result),
        "acceptance": dict(zip(stages, rates)),
    }
    if run.begun is not None:
        record["before"] = training_record(checkpoint_of(config.init).folder)
    folder.finish(stages["trained"], record)
    return record


def _copy_generation_config(source: str, folder: Path) -> None:
    try:
        found = GenerationConfig.from_pretrained(source)
    except OSError:  # the target has none
        return
    # Not `save_pretrained`, which refuses what some published models have.
    found.to_json_file(folder / "generation_config.json")


def _acceptance(run: Distillation, drafters: Sequence[Path]) -> list[float]:
    """Each drafter's acceptance rate after the held-out prompts, at temperature 0."""
    config = run.config
    pair = load_pair(
        "distilled",
        config.model.target,
        [str(path) for path in drafters],
        LoadOptions(dtype=run.dtype, device=run.device),
    )
    session = pair.session(max_new_tokens=config.max_new_tokens, sampling=Sampling())
    chosen = balanced(run.prompts.test, config.test_prompts)
    prompts = encoded(pair.tokenizer, chosen, config, run.context)
    unused = CostFeatures(0.0, 0.0, 0.0)
    played = []
    with progress(standard_output(), "acceptance") as update:
        for done, ids in enumerate(prompts, 1):
            for number in range(len(drafters)):
                made = generate(session, FixedLength(DRAFT_LENGTH, number), ids, cost=unused)
                played.append((number, made))
            update(done, len(prompts))
    return [
        acceptance_rate([made for number, made in played if number == wanted])
        for wanted in range(len(drafters))
    ]


def _summary(config: DistillConfig, record: dict[str, Any]) -> str:
    rates = record["acceptance"]
    use = ["python", "train_policy.py", "model=pair"]
    use += [f"model.target={config.model.target}", f"model.drafter={config.out}"]
    if record["settings"]["dtype"] != "bfloat16":  # the default of model=pair
        use.append(f"model.dtype={record['settings']['dtype']}")
    return (
        f"acceptance rate on held-out prompts (temperature 0, draft length {DRAFT_LENGTH}): "
        f"{rates['trained']:.1%}; before training: {rates['untrained']:.1%}\n"
        f"use it: {shlex.join(use)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nSettings:\n{describe(DistillConfig)}")
        return
    with one_line_errors():
        config = parse(DistillConfig, given)
        print(_summary(config, distill(config)))


if __name__ == "__main__":
    main()
