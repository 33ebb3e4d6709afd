"""What it costs that several processes train together: a step alone, and what they exchange.

    cd benchmarks && python ranks.py

For 1, 2 and 4 processes (gloo, one thread each) on this machine: a step of a gated ResNet-20 at 32
images a process with the processes on their own, the same with gradients averaged by
DistributedDataParallel, and an all-reduce of as many bytes alone. Prints a Markdown table.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from facts import facts
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import vibfx
from vibfx.passes import InsertGates, SetMode
from vibfx.training import parameter_groups

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from cifar_networks import ResNet20

WORLDS = (1, 2, 4)
IMAGES, STEPS, WARM_UP = 32, 20, 3
HEAD = """\
| Processes | Step, each on its own ms | Step together ms | All-reduce alone ms | kB |
|--:|--:|--:|--:|--:|"""


def main() -> None:
    """Start the processes; in one of them, measure."""
    if "RANK" in os.environ:
        measure()
        return
    print(HEAD, flush=True)
    for world in WORLDS:
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), *RUN],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    print()
    for name, value in facts("python ranks.py", ("vibfx", "torch")).items():
        print(f"- {name}: {value}")


RUN = ["--standalone", str(Path(__file__).resolve())]


def measure() -> None:
    """One row, printed by the first process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    graph = vibfx.trace(ResNet20().eval(), torch.randn(2, 3, 32, 32))
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    SetMode(training=True)(gated)
    optimizer = torch.optim.Adam(parameter_groups(gated, 1e-3), fused=True)
    together = DistributedDataParallel(gated)
    x, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))
    flat = torch.zeros(sum(p.numel() for p in gated.parameters()))

    def step(alone: bool) -> None:
        with together.no_sync() if alone else nullcontext():
            (F.cross_entropy(together(x), labels) + vibfx.information(gated, 1e-3)).backward()
        optimizer.step()
        optimizer.zero_grad()

    times = [timed(lambda: step(True)), timed(lambda: step(False))]
    times.append(timed(lambda: dist.all_reduce(flat)))
    if dist.get_rank() == 0:
        cells = " | ".join(f"{1e3 * t:.1f}" for t in times)
        print(f"| {dist.get_world_size()} | {cells} | {flat.nbytes / 1e3:.0f} |", flush=True)
    dist.destroy_process_group()


def timed(run: Callable[[], object]) -> float:
    """Median seconds; all processes begin together."""
    seconds = []
    for _ in range(WARM_UP + STEPS):
        dist.barrier()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_UP:])


if __name__ == "__main__":
    main()
