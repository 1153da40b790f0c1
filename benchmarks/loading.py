"""How long a model takes to load, and its peak memory.

    python benchmarks/loading.py [--models smollm2 tiny:target] [--repeats 3] [--json PATH]

Precisions are loaded in turn, with the files in the system's cache; seconds are medians. The peak
is the process's, above its memory before loading. It includes the mapped pages of weights files,
which the system may reclaim. Figures: `MODEL_PRECISION_seconds` and, if the system reports it,
`MODEL_PRECISION_peak` in multiples of the stored weights.
"""

import argparse
import gc
import statistics
import time
from pathlib import Path

import torch
from report import finish

from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.memory import PeakMemory, weight_bytes
from adaspec_rl.pairs.sources import checkpoint_of

PRECISIONS = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "int8": (torch.bfloat16, "int8"),
    "int4": (torch.bfloat16, "int4"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["smollm2", "tiny:target"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peak = PeakMemory(torch.device("cpu"))
    figures = {}
    for model in options.models:
        source = checkpoint_of(model).source
        load_model(source)  # compiles kernels and fills caches, once
        seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
        peaks: dict[str, list[float]] = {name: [] for name in PRECISIONS}
        for _ in range(options.repeats):
            for name, (dtype, quantize) in PRECISIONS.items():
                gc.collect()
                peak.begin()
                before, began = peak.bytes(), time.perf_counter()
                loaded = load_model(source, LoadOptions(dtype=dtype, quantize=quantize))
                seconds[name].append(time.perf_counter() - began)
                most = peak.bytes()
                if before is not None and most is not None:
                    peaks[name].append((most - before) / weight_bytes(loaded.weights))
                del loaded
        for name in PRECISIONS:
            figures[f"{model}_{name}_seconds"] = statistics.median(seconds[name])
            if peaks[name]:
                figures[f"{model}_{name}_peak"] = statistics.median(peaks[name])
    finish(figures, options.json)


if __name__ == "__main__":
    main()
