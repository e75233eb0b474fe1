"""What docs/results.md keeps of a comparison: the numbers of recipes/compare.py without those of single classes.

    python -m benchmarks.results compare/compare.json benchmarks/recorded/compare_NAME.json

Several comparisons from the same start, of other objectives, become one: name them all, the record last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def slim(record: dict[str, Any]) -> dict[str, Any]:
    """Without recalls of single classes and their intervals."""
    kept = {**record, "objectives": {}}
    for objective, methods in record["objectives"].items():
        kept["objectives"][objective] = {
            name: {**result, "runs": [_of_all_classes(report) for report in result["runs"]]}
            for name, result in methods.items()
        }
    return kept


def _of_all_classes(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if "/" not in name}


def joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of all objectives; commands one after the other."""
    whole = {**records[0], "objectives": {}}
    for record in records:
        for name in ("split_digest", "base_model", "seeds", "hardware", "num_test", "versions"):
            if record[name] != whole[name]:
                raise SystemExit(f"these comparisons cannot be one: {name} is {whole[name]} and {record[name]}.")
        whole["objectives"] |= record["objectives"]
    whole["command"] = "; ".join(dict.fromkeys(record["command"] for record in records))
    whole["seconds"] = sum(record["seconds"] for record in records)
    return whole


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+", help="of recipes/compare.py")
    parser.add_argument("record", type=Path)
    options = parser.parse_args(argv)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in options.comparisons]
    text = json.dumps(slim(joined(records)), indent=1)
    options.record.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
