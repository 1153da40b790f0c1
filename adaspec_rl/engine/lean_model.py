"""A decoder-only forward pass with nothing but the arithmetic."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import CausalBias, causal_lower_right

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.attention import CausalBand, additive
from adaspec_rl.engine.cpu.choice import multiplies_pairs
from adaspec_rl.engine.cpu.decoder import CpuDecoder, Drafted, DraftRequest, StopBelow
from adaspec_rl.engine.cpu.packing import PackedWeights
from adaspec_rl.engine.cuda_graphs import CudaRecorder, GraphPool, Inputs
from adaspec_rl.engine.decoder import Decoder, Plan
from adaspec_rl.engine.device_weights import read_weights
from adaspec_rl.engine.extension import Extended, Extension, joined, passes
from adaspec_rl.engine.finite_check import NOWHERE, FiniteCheck
from adaspec_rl.engine.kv_cache import KVCache
from adaspec_rl.engine.memory import out_of_memory
from adaspec_rl.engine.prefill import check_room, columns, default_chunk
from adaspec_rl.engine.products import LINEAR, Products, measured_products
from adaspec_rl.engine.tree_mask import tree_mask
from adaspec_rl.engine.weights import Weights, matrices_of

# Wider forwards on CUDA, and those of more tokens, are limited by arithmetic, not launches.
_GRAPH_WIDTH, _GRAPH_TOKENS = 64, 1024
_FILLED = 16  # tokens per row to which narrower forwards on CUDA are padded,
_FILLED_ROWS = 128  # if all rows together have no more: reading the weights takes the time
_BUCKET = 256  # attention on CUDA spans this many keys times a power of two


class LeanModel:
    """A `LanguageModel` for Llama, Mistral, Qwen2 and Qwen3.

    Attributes:
        last_hidden: `[B, K, hidden]`, the normalised hidden states from the last forward or
            `extend`, of the tokens whose logits were kept, or of as many as were asked for.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights | PackedWeights,
        name: str,
        *,
        context_length: int | None = None,
        prefill_chunk: int | None = None,
        graph_memory: int = 2 << 30,
        compile: bool = False,
    ) -> None:
        """`context_length` defaults to the architecture's.

        Args:
            prefill_chunk: the most tokens in one forward pass of `extend`, all rows together.
            graph_memory: bytes that captured CUDA graphs may take; 0 captures none.
            compile: run narrow CUDA forwards through torch.compile.

        Raises:
            ValueError: dynamic RoPE scaling is asked to go beyond the trained context.
        """
        limit = context_length or architecture.context_length
        if architecture.rope.rope_type == "dynamic" and limit > architecture.context_length:
            raise ValueError(
                f"{name} has rope_type='dynamic', whose rotations beyond "
                f"{architecture.context_length} tokens depend on how the text is cut into forward "
                f"passes: expected at most that context_length, got {limit}"
            )
        self.name = name
        self.architecture = architecture
        self.vocab_size = architecture.vocab_size
        self.context_length = limit
        self.device = weights.norm.device
        self.last_hidden: torch.Tensor | None = None
        self.weights = weights
        self._on_cpu = self.device.type == "cpu"
        self._compiled: CpuDecoder | None = None
        if isinstance(weights, PackedWeights):
            self.dtype = weights.dtype
            how, stored = "compiled kernels", weights.layers[0].down.precision
            pairs = stored == "bfloat16" and multiplies_pairs()
            self._compiled = CpuDecoder(architecture, weights, pairs=pairs)
            if stored == "bfloat16":
                how += ", pairs of bfloat16" if pairs else ", products in float32"
        else:
            self.dtype = weights.norm.dtype
            self._decoder = Decoder(architecture, weights, self._choose_products(weights))
            how = "torch.compile" if compile else "torch"
            plain = type(weights.layers[0].down) is torch.Tensor
            stored = str(self.dtype).removeprefix("torch.") if plain else "int8"
        numbers = str(self.dtype).removeprefix("torch.")
        if stored != numbers:
            numbers = f"{stored} and {numbers}"
        self.execution = f"{how}, {numbers}, {self.device.type}"
        self.resets = 0
        self._no_features = torch.empty(0, dtype=self.dtype, device=self.device)
        self._chunk = prefill_chunk or default_chunk(self.device)
        self._finite = FiniteCheck(name, self.device)
        self._windows = tuple(set(architecture.windows))
        self._windowed = self._windows != (None,)
        self._cache = KVCache(
            architecture,
            dtype=self.dtype,
            device=self.device,
            context_length=limit if self._compiled is not None else limit + _FILLED,
            blocked=self._compiled is not None,
        )
        narrow = torch.compile(self._narrow_forward, dynamic=False) if compile else None
        self._narrow = narrow or self._narrow_forward
        self._graphs = GraphPool(partial(CudaRecorder, self.device), budget=graph_memory)
        self._prepare()

    @classmethod
    def from_tensors(
        cls,
        config: Mapping[str, Any],
        tensors: Iterable[tuple[str, torch.Tensor]],
        name: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),
        kernels: str = "auto",
        quantize: str | None = None,
        **options: Any,
    ) -> "LeanModel":
        """Build from a `config.json` and named tensors, e.g. `state_dict.items()`."""
        architecture = Architecture.from_config(config)
        weights = read_weights(
            architecture, tensors, dtype=dtype, device=device, kernels=kernels, quantize=quantize
        )
        return cls(architecture, weights, name, **options)

    @property
    def lengths(self) -> torch.Tensor:
        return torch.tensor(self._cache.lengths, dtype=torch.long)

    @property
    def output_tokens(self) -> torch.Tensor | None:
        return self.weights.output_tokens

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        self.reset(len(tokens))
        return self.extend(tokens, keep=1)[:, -1]

    def extend(
        self,
        tokens: torch.Tensor,
        keep: int | None = None,
        *,
        states: int | None = None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As in `LanguageModel`; `states` and `features` as in `forward`."""
        width, most = tokens.shape[-1], columns(self._chunk, self._cache.batch)
        if width <= most:
            return self.forward(tokens, keep=keep, states=states, features=features)
        check_room(self.name, tokens, self._cache.batch, self._cache.longest, self.context_length)
        keep = width if keep is None else min(keep, width)
        states = keep if states is None else min(states, width)
        parts, hidden = [], []
        for start in range(0, width, most):
            chunk = tokens[:, start : start + most]
            stop = start + chunk.shape[1]
            # How many logits are kept of this chunk, and how many hidden states.
            wanted, known = (max(0, stop - max(start, width - n)) for n in (keep, states))
            seen = None if features is None else features[:, start:stop]
            parts.append(self.forward(chunk, keep=wanted, states=known, features=seen))
            hidden.append(self.last_hidden)
        self.last_hidden = torch.cat([part for part in hidden if part is not None], dim=1)
        return torch.cat(parts, dim=1)

    def extend_tree(
        self,
        tokens: torch.Tensor,
        parents: Sequence[int],
        *,
        keep: int | None = None,
        states: int | None = None,
        features: torch.Tensor | None = None,
        layers: int | None = None,
    ) -> torch.Tensor:
        """Append nodes of a token tree, as in `LanguageModel`; options as in `forward`."""
        width, stem = tokens.shape[-1], self._cache.longest - (len(parents) - tokens.shape[-1])
        assert self._cache.batch == 1 and stem >= 0
        positions = mask = None
        if any(parent != before for before, parent in enumerate(parents, -1)):  # no chain
            positions, mask = tree_mask(parents, width, stem)
        return self.forward(
            tokens,
            keep=keep,
            states=states,
            features=features,
            layers=layers,
            positions=positions,
            mask=mask,
        )

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        """Forget all but the first `length` tokens and one path of the tree after them."""
        self._cache.keep(0, length, [length + node for node in nodes])
        if self._windowed and nodes:
            self._place(self._positions(-len(nodes), len(nodes)))

    def extend_rows(self, extensions: Sequence[Extension]) -> list[Extended]:
        """Append to some rows of the cache the tokens of their `Extension`.

        A row with NaN or infinite logits is reported and does not affect other rows.

        Raises:
            ValueError: a row would outgrow `context_length`.
            IndexError: a token is not in the vocabulary.
        """
        cache, limit = self._cache, self.context_length
        for part in extensions:
            if cache.lengths[part.row] + part.width > limit:
                raise ValueError(
                    f"the context of {self.name} holds {limit} tokens: {cache.lengths[part.row]} "
                    f"are in row {part.row} and {part.width} more do not fit"
                )
        most = _FILLED if self._compiled is None else max(1, self._chunk)
        found: dict[int, list[Extended]] = {part.row: [] for part in extensions}
        for together in passes(extensions, most, padded=self._compiled is None):
            with torch.inference_mode():
                read = self._read_padded if self._compiled is None else self._read_ragged
                for part, extended in zip(together, read(together)):
                    found[part.row].append(extended)
        return [joined(found[part.row]) for part in extensions]

    def _read_ragged(self, extensions: Sequence[Extension]) -> list[Extended]:
        assert self._compiled is not None
        cache = self._cache
        if cache.reserve(max(cache.lengths[part.row] + part.width for part in extensions)):
            self._prepare()
        if self._windowed:
            for part in extensions:
                first = cache.lengths[part.row]
                slots = self._steps[first : first + part.width]
                self._slot_positions[part.row, first : first + part.width] = slots
        logits, hidden, finite = self._compiled.run_rows(
            extensions,
            cache,
            self._rope,
            layers=self.architecture.layers,
            places=self._slot_positions if self._windowed else None,
        )
        cache.append({part.row: part.width for part in extensions})
        kept = logits.split([part.keep for part in extensions])
        known = hidden.split([max(part.keep, part.states) for part in extensions])
        return [
            Extended(own, states, finite or bool(own.isfinite().all()))
            for own, states in zip(kept, known)
        ]

    def _read_padded(self, extensions: Sequence[Extension]) -> list[Extended]:
        """All rows read as many tokens as the widest; padding tokens are forgotten."""
        cache = self._cache
        before, width = list(cache.lengths), max(part.width for part in extensions)
        tokens = torch.zeros(cache.batch, width, dtype=torch.long, device=self.device)
        features = None
        if self.architecture.reads_features:
            size = self.architecture.hidden_size
            features = torch.zeros(cache.batch, width, size, device=self.device)
        for part in extensions:
            tokens[part.row, : part.width] = part.tokens
            if features is not None and part.features is not None:
                features[part.row, : part.width] = part.features
        most = max(max(part.keep, part.states) and part.width for part in extensions)
        keep = width if most else 1
        with self._finite.deferred():
            logits = self._forward(tokens, keep, keep, features, None, None, None)
        assert self.last_hidden is not None
        hidden = self.last_hidden
        cache.lengths = before
        cache.append({part.row: part.width for part in extensions})
        finite = logits.isfinite().all(-1).cpu()  # [B, keep]
        found = []
        for part in extensions:
            kept, states = part.keep, max(part.keep, part.states)
            own = slice(part.width - kept, part.width) if most else slice(0, 0)
            seen = slice(part.width - states, part.width) if most else slice(0, 0)
            row = part.row
            found.append(
                Extended(logits[row, own], hidden[row, seen], bool(finite[row, own].all()))
            )
        return found

    def free_row(self, row: int, *, erase: bool = False) -> None:
        """Forget a row's tokens; `erase` also zeroes their memory, in case it holds a NaN."""
        self._cache.free(row, erase=erase)

    def rollback_row(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of one row."""
        lengths = list(self._cache.lengths)
        lengths[row] = length
        self._cache.rollback(lengths)

    def rollback(self, lengths: torch.Tensor | int) -> None:
        if isinstance(lengths, int):
            self._cache.rollback([lengths] * self._cache.batch)
        else:
            self._cache.rollback(lengths.tolist())

    def reset(self, batch: int = 1, length: int = 0) -> None:
        self.resets += 1
        wanted = length + _FILLED if length and not self._on_cpu else length
        moved = not self._cache.fits(batch, wanted)
        if moved:
            self.release()  # there may be no room for both
        self._cache.allocate(batch, wanted)
        if moved:
            self._prepare()

    @torch.inference_mode()
    def prepare(
        self,
        length: int,
        *,
        layers: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """On CUDA, allocate memory for one row of `length` tokens and record narrow forwards.

        Raises:
            OutOfMemory: the device has no room for them.
        """
        if self._on_cpu:
            return
        if self._cache.batch != 1:
            self.reset()
        spans, layers = self._spans(length + _FILLED), layers or self.architecture.layers
        try:
            if self._cache.reserve(spans[-1]):
                self._prepare()
            keys = {("plain", 1, _FILLED, span, _FILLED, layers): span for span in spans}
            missing = {key: span for key, span in keys.items() if key not in self._graphs}
            if not missing or self._graphs.full:
                return
            tokens = torch.zeros(1, _FILLED, dtype=torch.long, device=self.device)
            features = self._no_features
            if self.architecture.reads_features:
                features = features.new_zeros(1, _FILLED, self.architecture.hidden_size)
            inputs = (tokens, features, tokens[:, 0], tokens[:, 0])
            for number, (key, span) in enumerate(missing.items(), 1):
                self._graphs.record(key, self._narrow, inputs, span, _FILLED, layers)
                progress(number / len(missing))
            self.reset()
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self.name, error) from error

    def release(self) -> None:
        if not self._cache.batch:  # released before
            return
        self.resets += 1
        self._cache.release()
        self._graphs.clear()
        del self._keys, self._values, self._bands, self._rope, self._steps, self._slot_positions
        self.last_hidden = None

    def weights_moved(self) -> None:
        if isinstance(self.weights, PackedWeights):
            assert self._compiled is not None
            self._compiled = self._compiled.with_weights(self.weights)

    @property
    def pending(self) -> torch.Tensor | None:
        return self._finite.pending

    def check(self, found: int | None = None) -> None:
        try:
            self._finite.check(found)
        except FloatingPointError:
            self._wipe()
            raise

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        keep: int | None = None,
        states: int | None = None,
        features: torch.Tensor | None = None,
        layers: int | None = None,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Append `tokens` `[B, W]` to the cache in one pass, as `extend` does.

        Args:
            keep: return logits of the last `keep` tokens only.
            states: keep hidden states of the last `states` tokens in `last_hidden`, but at least of
                the tokens whose logits are kept.
            features: `[B, W, hidden]`, for a model that reads features besides tokens.
            layers: stop after this many layers and decode from there (an early exit). Deeper layers
                then lack these tokens: roll back before running all layers.
            positions: `[B, W]`, the tokens' positions in their texts; by default at the row's end.
            mask: `[B or 1, W, L]` bool, which of the `L` = longest row + `W` tokens in the cache
                each token sees, including itself; by default all before it. With `positions`, this
                runs the branches of a tree side by side.

        Returns: float32 logits `[B, K, V]`, or `[B, K, outputs]` where there are `output_tokens`.
        """
        cache = self._cache
        check_room(self.name, tokens, cache.batch, cache.longest, self.context_length)
        if self._compiled is not None:  # keeps nothing for gradients anyway
            return self._forward(tokens, keep, states, features, layers, positions, mask)
        with torch.inference_mode():
            return self._forward(tokens, keep, states, features, layers, positions, mask)

    def _forward(
        self,
        tokens: torch.Tensor,
        keep: int | None,
        states: int | None,
        features: torch.Tensor | None,
        layers: int | None,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        cache = self._cache
        batch, width = tokens.shape
        assert (features is not None) == self.architecture.reads_features
        keep = width if keep is None else min(keep, width)
        states = keep if states is None else max(keep, min(states, width))
        layers = self.architecture.layers if layers is None else layers
        narrow = not self._on_cpu and width <= _GRAPH_WIDTH and batch * width <= _GRAPH_TOKENS
        try:
            if cache.reserve(cache.longest + (self._filled(width) if narrow else width)):
                self._prepare()
            tokens = tokens.to(self.device)
            finite = False  # not known to be
            if self._compiled is not None:
                logits, hidden, finite = self._run_compiled(
                    tokens, keep, states, features, layers, positions, mask
                )
            elif narrow:
                logits, hidden = self._graphed(
                    tokens, keep, states, features, layers, positions, mask
                )
            else:
                if positions is None and mask is None and cache.uniform:
                    plan = self._causal_plan(cache.lengths[0], width)
                else:
                    plan = self._masked_plan(width, positions, mask)
                logits, hidden = self._decoder.run(
                    tokens, plan, keep, layers, states=states, features=features
                )
                finite = self._on_cpu and isfinite(logits.sum().item())
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self.name, error) from error
        cache.lengths = [length + width for length in cache.lengths]
        logits, self.last_hidden = logits.float(), hidden
        if keep and not narrow and not finite:
            self._watch(logits, self._positions(-keep, keep))
        return logits

    def drafts_at_once(self, rows: bool = False) -> bool:
        """Whether `draft`, or `draft_rows`, can be called."""
        return self._compiled is not None and (rows or self._cache.batch == 1)

    def draft(
        self,
        tokens: torch.Tensor,
        length: int,
        *,
        choices: int,
        temperature: float,
        noise: torch.Tensor | None,
        features: torch.Tensor | None = None,
        layers: int | None = None,
    ) -> Drafted:
        """Read `tokens` `[1, W]` and draft `length` tokens after them in one call of `CpuDecoder`.

        The cache then holds all but the last drafted token. One call saves the work that Python
        does between passes, which takes longer than the passes of a small model.
        """
        assert self._compiled is not None
        before = tokens.shape[1] - columns(self._chunk, 1)
        if before > 0:
            early = None if features is None else features[:, :before]
            self.extend(tokens[:, :before], keep=0, features=early)
            tokens = tokens[:, before:]
            features = None if features is None else features[:, before:]
        cache = self._cache
        read = tokens.shape[1] + length - 1
        check_room(self.name, tokens, cache.batch, cache.longest + length - 1, self.context_length)
        if cache.reserve(cache.longest + read):
            self._prepare()
        if self._windowed:
            self._place(self._positions(0, read))
        known = None if features is None else features[0]
        (drafted,) = self._compiled.draft(
            [Extension(0, tokens[0].contiguous(), 1, 1, known)],
            cache,
            self._rope,
            DraftRequest(
                [length], choices, temperature, None if noise is None else [noise], [StopBelow()]
            ),
            layers=layers or self.architecture.layers,
            ids=self.output_tokens,
            places=self._slot_positions if self._windowed else None,
        )
        cache.lengths = [cache.longest + read]
        assert drafted.hidden is not None
        self.last_hidden = drafted.hidden[None]
        if not drafted.finite:
            assert drafted.logits is not None
            self._watch(drafted.logits[None], self._positions(-length, length))
        return drafted

    def draft_rows(self, extensions: Sequence[Extension], wanted: DraftRequest) -> list[Drafted]:
        """`draft` for several rows, each after its own tokens, in one call.

        The cache then holds all but the last drafted token of each row. A row with NaN or infinite
        logits is reported and does not affect other rows. There must be room for all drafts.
        """
        assert self._compiled is not None
        cache, room = self._cache, max(1, self._chunk)
        if sum(part.width for part in extensions) > room:
            early = [part.cut(part.width - 1) for part in extensions if part.width > 1]
            self.extend_rows([first for first, _ in early])
            later = [
                part if part.width == 1 else part.cut(part.width - 1)[1] for part in extensions
            ]
            extensions = [part for part in later if part is not None]
        ends = [
            cache.lengths[part.row] + part.width + length - 1
            for part, length in zip(extensions, wanted.lengths)
        ]
        assert max(ends) <= self.context_length, "a draft does not fit into the context"
        if cache.reserve(max(ends)):
            self._prepare()
        if self._windowed:
            for part, end in zip(extensions, ends):
                first = cache.lengths[part.row]
                self._slot_positions[part.row, first:end] = self._steps[first:end]
        with torch.inference_mode():
            found = self._compiled.draft(
                extensions,
                cache,
                self._rope,
                wanted,
                layers=self.architecture.layers,
                ids=self.output_tokens,
                places=self._slot_positions if self._windowed else None,
            )
        cache.append({p.row: p.width + len(made.tokens) - 1 for p, made in zip(extensions, found)})
        return found

    def _run_compiled(
        self,
        tokens: torch.Tensor,
        keep: int,
        states: int,
        features: torch.Tensor | None,
        layers: int,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        assert self._compiled is not None
        if self._windowed:
            self._place(self._positions(0, tokens.shape[1]), positions)
        return self._compiled.run(
            tokens,
            self._cache,
            self._rope,
            keep=keep,
            states=states,
            features=features,
            layers=layers,
            positions=positions,
            mask=mask,
            places=self._slot_positions if self._windowed else None,
        )

    def _place(self, slots: torch.Tensor, positions: torch.Tensor | None = None) -> None:
        """Note the positions of the tokens in `slots` `[B, W]`."""
        with torch.inference_mode():  # where the memory may have been made
            self._slot_positions[self._rows, slots] = slots if positions is None else positions

    def _choose_products(self, weights: Weights) -> Products:
        matrices = matrices_of(weights)
        on_cpu = self.device.type == "cpu" and type(matrices[0]) is torch.Tensor  # not quantised
        return measured_products(matrices) if on_cpu else LINEAR

    def _watch(self, logits: torch.Tensor, positions: torch.Tensor) -> None:
        try:
            self._finite.watch(logits, positions)
        except FloatingPointError:
            self._wipe()
            raise

    def _wipe(self) -> None:
        self.resets += 1
        self._cache.wipe()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copied and unpickled models use their own cache, which starts empty."""
        self.__dict__.update(state)
        if self._cache.batch:
            self._prepare()
            self._wipe()

    def _prepare(self) -> None:
        """Build what depends on the cache's place and capacity."""
        a, cache = self.architecture, self._cache
        self._rope = a.rope.table(cache.capacity, a.head_dim, self.device)[:, None]  # [L, 1, D/2]
        self._steps = torch.arange(cache.capacity, device=self.device)
        self._rows = torch.arange(cache.batch, device=self.device)[:, None]
        self._keys = cache.data.narrow(2, 0, a.kv_heads)  # [layers, B, kv heads, L, D]
        self._values = cache.data.narrow(2, a.kv_heads, a.kv_heads)
        self._slot_positions = self._steps.repeat(cache.batch, 1)  # [B, L]
        self._graphs.clear()
        self._bands = {
            window: CausalBand(cache.capacity, window, a.groups, self.dtype)
            for window in (self._windows if self._on_cpu and self._compiled is None else ())
        }

    def _positions(self, offset: int, width: int) -> torch.Tensor:
        """The positions from `length + offset` on in every row, `[B, width]`."""
        return self._starts()[:, None] + offset + self._steps[:width]

    def _starts(self) -> torch.Tensor:
        """The rows' lengths on the device, `[B]`, without a synchronisation."""
        cache = self._cache
        if cache.uniform:
            return torch.full((cache.batch,), cache.longest, device=self.device)
        return torch.tensor(cache.lengths).to(self.device, non_blocking=True)

    def _causal_plan(self, start: int, width: int) -> Plan:
        """A plan for rows that all append at `start`: every tensor is a slice."""
        a, stop = self.architecture, start + width
        masks: dict[int | None, torch.Tensor | CausalBias | None] = {}
        for window in self._windows:
            cut = window is not None and stop > window  # some tokens are out of sight
            if width == 1 and not cut:
                masks[window] = None
            elif self._on_cpu and width <= CausalBand.MAX_WIDTH:
                masks[window] = self._bands[window].mask(start, width)
            elif not cut and (start == 0 or not self._on_cpu):
                masks[window] = causal_lower_right(width, stop)
            else:
                row, column = self._steps[start:stop, None], self._steps[:stop]
                allowed = column <= row
                if window is not None:
                    allowed = allowed & (column > row - window)
                masks[window] = additive(allowed[None], a.groups, self.dtype)
        if self._windowed:
            self._slot_positions[:, start:stop] = self._steps[start:stop]
        return Plan(
            rope=self._rope.narrow(0, start, width),
            masks=masks,
            keys=self._keys.narrow(3, 0, stop).unbind(0),
            values=self._values.narrow(3, 0, stop).unbind(0),
            room=self._cache.data.narrow(3, start, width).unbind(0),
            slots=None,
        )

    def _masked_plan(
        self, width: int, positions: torch.Tensor | None, mask: torch.Tensor | None
    ) -> Plan:
        """A plan for rows of different lengths, or for tokens with given positions or masks."""
        span, slots = self._cache.longest + width, self._positions(0, width)
        allowed = self._steps[:span] <= slots[..., None] if mask is None else mask.to(self.device)
        positions = slots if positions is None else positions.to(self.device)
        return self._scattered_plan(slots, positions, span, allowed)

    def _scattered_plan(
        self, slots: torch.Tensor, positions: torch.Tensor, span: int, allowed: torch.Tensor
    ) -> Plan:
        a = self.architecture
        if self._windowed:
            self._slot_positions[self._rows, slots] = positions
        masks: dict[int | None, torch.Tensor | CausalBias | None] = {}
        for window in self._windows:
            seen = allowed
            if window is not None:
                key_positions = self._slot_positions[:, None, :span]
                seen = seen & (key_positions > positions[..., None] - window)
            masks[window] = additive(seen, a.groups, self.dtype)
        return Plan(
            rope=self._rope[positions],
            masks=masks,
            keys=self._keys.narrow(3, 0, span).unbind(0),
            values=self._values.narrow(3, 0, span).unbind(0),
            room=self._cache.data.unbind(0),
            slots=(self._rows, slots),
        )

    def _spans(self, length: int) -> list[int]:
        """How many keys narrow forwards may attend to, up to the first that holds `length`."""
        most = -(-(self.context_length + _FILLED) // _FILLED) * _FILLED  # kernels like even numbers
        spans = [min(_BUCKET, most)]
        while spans[-1] < min(length, most):
            spans.append(min(2 * spans[-1], most))
        return spans

    def _fills(self, width: int) -> bool:
        return width <= _FILLED and self._cache.batch * _FILLED <= _FILLED_ROWS

    def _filled(self, width: int) -> int:
        """Tokens per row of a narrow forward, padded so that many widths share a graph."""
        return _FILLED if self._fills(width) else width

    def _graphed(
        self,
        tokens: torch.Tensor,
        keep: int,
        states: int,
        features: torch.Tensor | None,
        layers: int,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A narrow forward, padded with tokens that leave no trace."""
        cache, width = self._cache, tokens.shape[1]
        filled = self._filled(width)
        rows = filled if self._fills(width) else states  # of logits and hidden states
        span = min(self._spans(cache.longest + filled)[-1], cache.capacity)
        starts = self._starts()
        more = tokens[:, -1:].expand(-1, filled - width)  # repeating a known token does no harm
        features = self._no_features if features is None else features
        if features.numel():
            features = F.pad(features, (0, 0, 0, filled - width))
        inputs: Inputs = (torch.cat([tokens, more], dim=1), features, starts, starts + width)
        key = ("plain", cache.batch, filled, span, rows, layers)
        narrow: Callable[..., tuple[torch.Tensor, torch.Tensor]] = self._narrow
        if positions is not None or mask is not None:
            key, narrow = ("branches", *key[1:]), self._narrow_branches
            inputs += self._branches(width, filled, span, positions, mask)
        logits, hidden = self._graphs.run(key, narrow, inputs, span, rows, layers)
        end = width - (filled - rows)
        # Copied, as the next replay overwrites them.
        return logits[:, end - keep : end].clone(), hidden[:, end - states : end].clone()

    def _branches(
        self,
        width: int,
        filled: int,
        span: int,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions `[B, filled]` and masks `[B, filled, span]`; padding sees all before it."""
        places = self._positions(0, filled)
        allowed = self._steps[:span] <= places[..., None]
        if mask is not None:
            allowed[:, :width] = False
            allowed[:, :width, : mask.shape[-1]] = mask.to(self.device, non_blocking=True)
        if positions is not None:
            places[:, :width] = positions.to(self.device, non_blocking=True)
        return places, allowed

    def _narrow_forward(
        self,
        tokens: torch.Tensor,
        features: torch.Tensor,
        starts: torch.Tensor,
        stops: torch.Tensor,
        span: int,
        rows: int,
        layers: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A pass whose shapes do not depend on the lengths `starts` `[B]`, so it can be replayed.

        Tokens in slots from `stops` `[B]` on are padding. Logits are those of the last `rows`
        tokens. `features` are `[B, W, hidden]`, or empty if the model reads none.
        """
        slots = starts[:, None] + self._steps[: tokens.shape[1]]
        allowed = self._steps[:span] <= slots[..., None]
        places = (starts, stops, slots, allowed)
        return self._narrow_branches(tokens, features, *places, span, rows, layers)

    def _narrow_branches(
        self,
        tokens: torch.Tensor,
        features: torch.Tensor,
        starts: torch.Tensor,
        stops: torch.Tensor,
        positions: torch.Tensor,
        allowed: torch.Tensor,
        span: int,
        rows: int,
        layers: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_narrow_forward` for tokens with given positions and masks `allowed` `[B, W, span]`."""
        slots = starts[:, None] + self._steps[: tokens.shape[1]]
        plan = self._scattered_plan(slots, positions, span, allowed)
        read = features if features.numel() else None
        logits, hidden = self._decoder.run(tokens, plan, rows, layers, states=rows, features=read)
        logits = logits.float()
        if rows:
            watched = slots.masked_fill(slots >= stops[:, None], NOWHERE)
            self._finite.watch(logits, watched[:, -rows:])
        return logits, hidden
