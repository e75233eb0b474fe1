"""Seconds that imports take, each in a fresh process.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gain import hardware
from selmix_hf.reports.tables import markdown_table

STATEMENTS = {
    "nothing": "pass",
    "import torch": "import torch",
    "import torch, selmix_hf": "import torch, selmix_hf",
    "from transformers import Trainer": "from transformers import Trainer",
    "from selmix_hf import SelMixTrainer": "from selmix_hf import SelMixTrainer",
}


def seconds_of(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def table(result: dict) -> str:
    """Markdown: best of the repeats and the slowest, beyond the best time of starting Python."""
    seconds = result["seconds"]
    start = min(seconds["nothing"])
    return markdown_table(
        ["", "s beyond starting Python", "slowest"],
        [
            [f"`{name}`", f"{min(seconds[name]) - start:.2f}", f"{max(seconds[name]) - start:.2f}"]
            for name in STATEMENTS
            if name != "nothing"
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(options.repeats):
        for name, statement in STATEMENTS.items():
            seconds[name].append(seconds_of(statement))
    result = {"hardware": hardware(), "seconds": seconds}
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
