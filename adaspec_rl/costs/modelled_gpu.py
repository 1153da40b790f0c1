"""Batch costs computed instead of measured: what a GPU's data sheet leads one to expect.

A pass reads the weights or multiplies by them, whichever takes longer; then it reads the keys and
values of the rows or multiplies by them (the roofline model, Williams et al. 2009).
"""

from dataclasses import dataclass

from adaspec_rl.costs.batch_costs import BatchCosts, DrafterCosts
from adaspec_rl.costs.forward_costs import ForwardCosts

ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512)
WIDTHS = (1, 2, 3, 4, 5, 7, 9, 13, 17)
CONTEXTS = (1, 16384)  # seconds are linear in between


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU's speed, and the shares of it that programs reach."""

    name: str
    bytes: float
    flops: float  # dense, at the weights' precision
    reached_bytes: float
    reached_flops: float
    layer: float  # further seconds per layer


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The size of a decoder, which determines what a forward pass reads and multiplies."""

    name: str
    weights: float  # number of weights that multiply: the head included, the embedding not
    layers: int
    kv_heads: int
    heads: int
    head: int  # dimension of a head
    number: int = 2  # bytes per number

    def forward(self, gpu: Gpu) -> ForwardCosts:
        """Seconds of the decoder's passes on `gpu`."""
        return ForwardCosts(
            ROWS,
            WIDTHS,
            CONTEXTS,
            tuple(
                tuple(
                    tuple(self._seconds(gpu, rows, rows * width, at) for at in CONTEXTS)
                    for width in WIDTHS
                )
                for rows in ROWS
            ),
        )

    def _seconds(self, gpu: Gpu, rows: int, tokens: int, context: int) -> float:
        bytes_, flops = gpu.bytes * gpu.reached_bytes, gpu.flops * gpu.reached_flops
        products = max(self.number * self.weights / bytes_, 2 * self.weights * tokens / flops)
        kept = 2 * self.layers * self.kv_heads * self.head * self.number  # bytes a token
        multiplied = 4 * self.layers * self.heads * self.head  # operations a token and position
        attention = max(kept * rows * context / bytes_, multiplied * tokens * context / flops)
        return products + attention + gpu.layer * self.layers


H200 = Gpu("H200", 4.8e12, 990e12, 0.85, 0.65, 4e-6)
LLAMA_8B = ModelShape("Llama-3.1-8B", 7.50e9, 32, 8, 32, 128)
LLAMA_1B = ModelShape("Llama-3.2-1B", 1.24e9, 16, 8, 32, 64)
LOOKUP = ForwardCosts((1, 512), (1, 2), (1,), (((2e-6,), (2.2e-6,)), ((1.024e-3,), (1.1264e-3,))))


def modelled(
    gpu: Gpu = H200, target: ModelShape = LLAMA_8B, drafter: ModelShape = LLAMA_1B
) -> BatchCosts:
    """Costs of `target` with `drafter` as first drafter and an n-gram lookup on the host as second.

    The lookup takes 2 µs per row and token. The overhead is 0.15 ms per round, 0.05 ms per draft
    and 10 µs per level under a threshold. All of these are assumptions. The policy's 30 µs and 0.2
    µs per row are those of an implementation on the device; in NumPy on the host, it takes several
    times as long.
    """
    return BatchCosts(
        f"{gpu.name}, modelled and not measured: {target.name} with {drafter.name} and a lookup, "
        f"{gpu.reached_bytes:.0%} of {gpu.bytes / 1e12:g} TB/s, {gpu.reached_flops:.0%} of "
        f"{gpu.flops / 1e12:g} TFLOP/s",
        target.forward(gpu),
        (
            DrafterCosts(drafter.forward(gpu), stopping=1e-5, overhead=5e-5),
            DrafterCosts(LOOKUP),
        ),
        overhead=1.5e-4,
        policy=3e-5,
        policy_row=2e-7,
    )
