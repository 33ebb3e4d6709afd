"""The long run: ``python -m fuzzing --pairs 10000`` in ``tests``.

Draws networks until so many graph-and-mask pairs were checked, writes what fails to a file, made
small, and goes on.
"""

import argparse
import logging
import time
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzzing.checking import DESCRIPTIONS, Tally, check, prepare
from fuzzing.description import Description
from fuzzing.findings import ANALYSIS, Findings

BATCH = 50  # networks between two lines of progress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--masks", type=int, default=5, help="masks for each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--onnx", type=int, default=0, help="export one pair of so many")
    parser.add_argument("--failures", type=Path, default=Path("fuzzing-failures.txt"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    tally, findings = Tally(), Findings(options.failures)
    start, number = time.monotonic(), options.seed
    while tally["pairs"] < options.pairs and _minutes(start) < options.minutes:
        _batch(number, options, tally, findings)
        number += 1
        rate = tally["pairs"] / _minutes(start)
        print(f"{_minutes(start):.1f} min, {rate:.0f} pairs/min: {tally}", flush=True)
        for kind, count in findings.counts.most_common():
            print(f"  {count} x {kind}", flush=True)
    return 1 if findings.counts else 0


def _minutes(start: float) -> float:
    return (time.monotonic() - start) / 60


def _batch(number: int, options: argparse.Namespace, tally: Tally, findings: Findings) -> None:
    @seed(number)
    @settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(DESCRIPTIONS)
    def run(description: Description) -> None:
        _network(description, options, tally, findings)

    run()


def _network(
    description: Description, options: argparse.Namespace, tally: Tally, findings: Findings
) -> None:
    mask = ANALYSIS
    try:
        network = prepare(description, tally)
    except Exception as error:  # a finding, whatever it is
        findings.note(description, mask, error)
        return
    for mask in range(options.masks if network else 0):
        exported = options.onnx and tally["pairs"] % options.onnx == 0
        path = options.failures.with_suffix(".onnx") if exported else None
        try:
            check(network, tally, mask, control=mask == 0, onnx=path)
        except Exception as error:  # likewise
            findings.note(description, mask, error)


if __name__ == "__main__":
    raise SystemExit(main())
