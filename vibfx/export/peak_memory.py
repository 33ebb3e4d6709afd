"""Run as a script: prints by how many bytes a process grows that runs an ONNX file.

    python peak_memory.py FILE THREADS PROVIDER INPUTS.npz

It imports nothing of vibfx or torch, so that the process holds what a deployment would.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(path: str, threads: str, provider: str, inputs: str) -> None:
    """Open and run the file twice; the high-water mark beyond what there was before."""
    given = dict(np.load(inputs))
    before = _peak()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    for _ in range(2):
        session.run(None, given)
    sys.stdout.write(str(_peak() - before))


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage would count what this process was forked from
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
