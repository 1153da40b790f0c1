"""llama.cpp on a GGUF file, plain and with its prompt lookup, through `llama-cpp-python`."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bandwidth import cached_token
from decoders import Made, Method, Run
from gguf import (
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    LlamaFileType,
    dequantize,
    quantize,
)
from llama_cpp import Llama, llama_print_system_info
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from transformers import PretrainedConfig

LOOKUPS = (2, 4, 8, 10)  # tokens; the library's default is 10
CACHE_BYTES = 2  # per number in its cache: float16
KINDS = {
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
PRECISIONS = {"F16": "bfloat16", "BF16": "bfloat16", "Q8_0": "int8"}  # ours that compares to each


def system() -> str:
    """The library's build options."""
    return llama_print_system_info().decode()


def kind_of(path: Path) -> str:
    """The type of most matrices of a file, such as `Q4_1`."""
    names = [t.tensor_type.name for t in GGUFReader(path).tensors if len(t.shape) > 1]
    return max(set(names), key=names.count)


def rewritten(path: Path, kind: str, folder: Path) -> Path:
    """The same weights with every matrix as `kind`, written to `folder`."""
    reader, made = GGUFReader(path), folder / f"{kind}.gguf"
    writer = GGUFWriter(made, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        own = ("general.architecture", "general.file_type")
        if field.name.startswith("GGUF.") or field.name in own:
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(KINDS[kind])
    matrix = GGMLQuantizationType[kind]
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        to = matrix if len(tensor.shape) > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(np.ascontiguousarray(values), to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


class Counted(Llama):
    """A `Llama` that counts its forward passes."""

    passes = 0

    def eval(self, tokens: Sequence[int]) -> None:
        self.passes += 1
        super().eval(tokens)


class LlamaCpp:
    """llama.cpp's ways to decode with one GGUF file."""

    def __init__(
        self,
        path: Path,
        config: PretrainedConfig,
        *,
        context: int,
        threads: int,
        eos_ids: Sequence[int],
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        """`context` is the most tokens that a prompt and its answer may take together."""
        kind = kind_of(path)
        self.precision = PRECISIONS.get(kind, "int4" if kind.startswith("Q4") else kind)
        self.kind, self.eos_ids, self.max_new_tokens = kind, frozenset(eos_ids), max_new_tokens
        self._sampling = {"temp": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        self._options: dict[str, Any] = {
            "model_path": str(path),
            "n_ctx": context,
            "n_threads": threads,
            "n_threads_batch": threads,
            "verbose": False,
        }
        tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
        spared = tensors["token_embd.weight"] if "output.weight" in tensors else 0
        self._weights = sum(tensors.values()) - spared
        self._token = cached_token(config, CACHE_BYTES)

    def methods(self) -> Iterator[Method]:
        for attention in (False, True):
            loaded = Counted(flash_attn=attention, **self._options)
            name = f"{self.kind}{', flash attention' if attention else ''}"
            yield Method("llama.cpp", self.precision, "plain", name, self._run(loaded))
        drafter = LlamaPromptLookupDecoding()
        # Without `logits_all` the library keeps logits of 512 tokens, and fails on longer texts.
        drafting = Counted(draft_model=drafter, flash_attn=True, logits_all=True, **self._options)
        for count in LOOKUPS:
            run = self._run(drafting, count)
            yield Method("llama.cpp", self.precision, "lookup", f"{self.kind}, {count} tokens", run)

    def _run(self, model: Counted, lookup: int | None = None) -> Run:
        def run(prompt: list[int], seed: int) -> Made:
            if lookup:
                model.draft_model.num_pred_tokens = lookup
            model.reset()  # otherwise it would reuse the common start of two prompts
            model.set_seed(seed)
            made: list[int] = []
            began = first = time.perf_counter()
            for token in model.generate(prompt, **self._sampling):
                if not made:
                    first, model.passes = time.perf_counter(), 0
                made.append(token)
                if token in self.eos_ids or len(made) == self.max_new_tokens:
                    break
            seconds = time.perf_counter() - began
            context = len(prompt) + len(made) / 2
            read = model.passes * (self._weights + context * self._token)
            return Made(made, 1, first - began, seconds, read)

        return run
