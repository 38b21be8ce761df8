"""Compare the planner's activation bytes with what saved-tensor hooks count.

    python tools/check_activations.py --output tests/records/activations.json

Tiny models run forward and backward in real layouts (gloo processes, megatron-core's schedules);
the peak of what autograd keeps is compared with the planner's number, for twelve layouts and every
recompute option. The record holds the worst rank of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.observability.provenance import record_header
from tests.support.saved_bytes import CASES, OPTIONS, compare
from tests.support.spawn import DistributedPool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    parsed = parser.parse_args(arguments)
    rows = []
    for world_size in sorted({case.world_size for case in CASES}):
        with DistributedPool(world_size) as pool:
            for case in CASES:
                if case.world_size != world_size or parsed.only not in case.name:
                    continue
                for recompute in OPTIONS:
                    ranks = pool.run(compare, case, recompute)
                    worst = max(ranks, key=lambda one: abs(one.planned / one.counted - 1))
                    error = worst.planned / worst.counted - 1
                    rows.append(
                        {
                            "layout": case.name,
                            "model": case.model,
                            "recompute": recompute,
                            "stage": worst.stage,
                            "planned_bytes": round(worst.planned),
                            "counted_bytes": worst.counted,
                            "error": round(error, 4),
                        }
                    )
                    print(f"{case.name:42} {recompute:10} {error:+.1%}", flush=True)
    if parsed.output is not None:
        header = record_header(
            "bytes that autograd keeps at most, on the rank that is furthest off"
        )
        parsed.output.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
