"""A comparison as a table: `python examples/read_report.py [RESULTS.json]` (needs pandas)."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd


def table(results: dict[str, Any]) -> pd.DataFrame:
    """Every method's speedup in every kind of text, with its 95% interval over prompts."""
    return pd.DataFrame(
        {
            "temperature": comparison["temperature"],
            "text": text,
            "method": name,
            "speedup": method["speedup"],
            "low": method["speedup_ci95"][0],
            "high": method["speedup_ci95"][1],
            "tokens_a_round": method["mean_accepted_tokens"],
        }
        for comparison in results["comparisons"]
        for text, part in {"all": comparison, **comparison["domains"]}.items()
        for name, method in part["methods"].items()
    )


if __name__ == "__main__":
    newest = max(Path("runs").glob("*/*/results.json"), default=None)
    path = Path(sys.argv[1]) if sys.argv[1:] else newest
    if path is None:
        sys.exit("there is no results.json under runs: run adaspec-evaluate first")
    found = table(json.loads(path.read_text(encoding="utf-8")))
    print(found[found.text == "all"].sort_values("speedup", ascending=False).round(2).to_string())
    print(found.pivot_table(index="text", columns="method", values="speedup").round(2).to_string())
