"""From the target's texts and distributions to a drafter: first weights, training, files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.weights import tensors_in
from adaspec_rl.tools.distillation.config import DistillConfig
from adaspec_rl.tools.distillation.drafter_folder import (
    WrittenDrafter,
    frequent_tokens,
    write_drafter,
)
from adaspec_rl.tools.distillation.least_squares_start import start_by_least_squares
from adaspec_rl.tools.distillation.model import DraftPlan
from adaspec_rl.tools.distillation.own_drafter import OwnDrafter
from adaspec_rl.tools.distillation.shared_drafter import (
    EMBEDDING,
    FEATURE,
    FEATURE_NORM,
    HEAD,
    SharedDrafter,
)
from adaspec_rl.tools.distillation.teacher_loss import (
    Drafter,
    lesson_loss,
    step_distances,
    survival,
)
from adaspec_rl.tools.distillation.teacher_windows import TeacherWindows
from adaspec_rl.tools.distillation.texts import Division
from adaspec_rl.tools.training_loop import Schedule, Trained, train

DEPTH = 8  # the draft length up to which the final judgement goes
_WINDOWS = 8  # windows of held-out texts that judge a drafter during training
_FITTED = 24_000  # tokens that the first weights are fitted to


@dataclass(frozen=True, slots=True)
class Training:
    """One drafter in the making."""

    config: DistillConfig
    source: Checkpoint  # the target
    plan: DraftPlan
    begun: WrittenDrafter | None  # the drafter that training starts from
    output_tokens: np.ndarray | None  # ascending; None: all
    windows: TeacherWindows
    held_out: TeacherWindows

    @staticmethod
    def of(
        config: DistillConfig,
        source: Checkpoint,
        begun: WrittenDrafter | None,
        plan: DraftPlan,
        texts: Division,
    ) -> "Training":
        """Choose the tokens that the drafter can output, and pack the texts."""
        vocab_size = plan.config.vocab_size
        rows = None if begun is None else begun.output_tokens
        if begun is None and config.vocabulary is not None and config.vocabulary < vocab_size:
            rows = frequent_tokens(texts.train, config.vocabulary, vocab_size)
        windows, held_out = (
            TeacherWindows(part, rows, vocab_size, reads_hidden=config.reads_hidden)
            for part in (texts.train, texts.held_out)
        )
        return Training(config, source, plan, begun, rows, windows, held_out)

    def run(self, checkpoint: Path, device: str, untrained: Path, trained: Path) -> Trained:
        """Train, and write the untrained and the trained drafter."""
        config = self.config
        torch.manual_seed(config.seed)
        drafter = self._drafter(device)
        self._write(drafter, untrained)
        schedule = Schedule(
            config.steps,
            config.batch_size,
            config.sequence_length,
            config.learning_rate,
            warmup=max(1, min(50, config.steps // 10)),
            decay=1.0,  # at a constant rate, the noise of small batches hides progress
        )
        result = train(
            "distil",
            drafter,
            lambda model, lesson: lesson_loss(model, lesson.to(device), config.unroll, config.loss),
            self.windows,
            schedule,
            checkpoint,
            config.seed,
            steppers=[torch.optim.AdamW(drafter.parameters(), betas=(0.9, 0.95), weight_decay=0.0)],
            precision="bf16" if device.startswith("cuda") else "float32",
            judge=lambda: self.judged(drafter, config.unroll, _WINDOWS),
        )
        self._write(drafter, trained)
        return result

    @torch.no_grad()
    def judged(self, drafter: Drafter, depth: int, windows: int) -> dict[str, list[float]]:
        """The share of drafts of held-out texts whose first 1, 2 ... `depth` tokens are accepted.

        There is one list for temperature 0 and one for temperature 1.
        """
        length = min(self.config.sequence_length, self.held_out.tokens)
        sums, counts = torch.zeros(2, depth), torch.zeros(depth)
        for number in range(max(1, min(windows, self.held_out.tokens // length))):
            lesson = self.held_out.batch(0, number, 1, length).to(drafter.head.device)
            parts = step_distances(drafter, lesson, depth)
            counts += torch.tensor([float(judged.sum()) for judged, _ in parts])
            greedy = survival([(judged, found.agrees) for judged, found in parts])
            sampled = survival([(judged, found.overlap) for judged, found in parts])
            sums += torch.tensor([[float(c.sum()) for c in part] for part in (greedy, sampled)])
        greedy_shares, sampled_shares = (sums / counts.clamp(min=1)).tolist()
        return {"temperature 0": greedy_shares, "temperature 1": sampled_shares}

    def _drafter(self, device: str) -> Drafter:
        if self.plan.sources is None:
            model = AutoModelForCausalLM.from_config(self.plan.config, dtype=torch.float32)
            return OwnDrafter(model).to(device)
        config = self.config
        theirs = dict(tensors_in(self.source.weight_files(), self._wanted))
        mine = {
            name: theirs[source]
            for name, source in self.plan.sources.items()
            if name not in (EMBEDDING, HEAD)
        }
        embedding = theirs[EMBEDDING].float()
        head = theirs.get(HEAD, theirs[EMBEDDING]).float()
        size = embedding.shape[1]
        if config.reads_hidden:
            mine[FEATURE_NORM], mine[FEATURE] = torch.ones(size), torch.zeros(size, size)
        if self.begun is not None:
            mine = self.begun.tensors
        if self.output_tokens is not None:
            head = head[torch.from_numpy(self.output_tokens)]
        drafter = SharedDrafter(
            Architecture.from_config(self.plan.config.to_dict()),
            mine,
            embedding,
            head,
            reads_hidden=config.reads_hidden,
        ).to(device)
        if config.reads_hidden and self.begun is None:
            self._fit(drafter)
        return drafter

    def _wanted(self, name: str) -> bool:
        assert self.plan.sources is not None
        return name in {EMBEDDING, HEAD, *self.plan.sources.values()}

    def _fit(self, drafter: SharedDrafter) -> None:
        length = self.config.sequence_length
        count = max(1, min(_FITTED, self.windows.tokens) // length)
        lessons = [self.windows.batch(self.config.seed, n, 1, length) for n in range(count)]
        device = drafter.head.device
        start_by_least_squares(drafter, [lesson.to(device).batch for lesson in lessons])

    def _write(self, drafter: Drafter, folder: Path) -> None:
        if isinstance(drafter, OwnDrafter):
            drafter.save(folder, self.source.tokenizer(), self.plan.dtype)
            return
        config = {**self.source.config(), "num_hidden_layers": self.config.layers}
        if kinds := getattr(self.plan.config, "layer_types", None):
            config["layer_types"] = kinds
        write_drafter(
            folder,
            config,
            drafter.tensors(),
            reads_hidden=self.config.reads_hidden,
            output_tokens=self.output_tokens,
            dtype=torch.bfloat16,  # rounding here affects acceptance only
        )
