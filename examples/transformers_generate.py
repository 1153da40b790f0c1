"""`generate`, with us and without: `python examples/transformers_generate.py [smollm2]`.

Any causal language model and draft model can replace the two: folders or hub ids.
"""

import sys
import time

from transformers import AutoModelForCausalLM, AutoTokenizer

import adaspec_rl.interop as adaspec

pairs = ("tiny:target", "tiny:draft"), ("smollm2", "smollm2:draft")
target, draft = pairs["smollm2" in sys.argv]
folder = adaspec.checkpoint(target)  # a folder in Hugging Face's format, as any other
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
inputs = AutoTokenizer.from_pretrained(folder)("import os\nimport sys\n\n", return_tensors="pt")
ours = {"custom_generate": adaspec.generate, "draft_model": draft, "weights": "packed"}
texts = []
for name, options in (("generate", {}), ("with adaspec_rl", ours)):
    for count in (8, 96):  # the first call of each prepares it
        began = time.perf_counter()
        made = model.generate(**inputs, max_new_tokens=count, do_sample=False, **options)
    print(f"{name}: {time.perf_counter() - began:.2f} s")
    texts.append(made.tolist())
print("the same text" if texts[0] == texts[1] else "another text")
