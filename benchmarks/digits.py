"""The digits of scikit-learn as files, with the split that the starts of `benchmarks.starts` were trained on.

    python -m benchmarks.digits digits      # digits/train.parquet, digits/split.json

Training: 60 images of "0" down to 1 of "9", as recipes/quickstart.py draws them with seed 0. Validation: all others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recipes.quickstart import all_digits
from selmix_hf import make_long_tailed


def main(folder: Path) -> None:
    digits = all_digits()
    numbered = digits.add_column("row", range(len(digits)))
    train = make_long_tailed(numbered, imbalance_factor=60, max_per_class=60, seed=0)["train"]["row"][:]
    folder.mkdir(parents=True, exist_ok=True)
    digits.to_parquet(str(folder / "train.parquet"))
    split = {"train": train, "validation": sorted(set(range(len(digits))) - set(train))}
    (folder / "split.json").write_text(json.dumps(split) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
