#!/usr/bin/env python
"""How well, and how fast, scans are reconstructed: by engines in one process and served, by networks, and by both together.

    python -m benchmarks.ptycho --scan FILE --json FILE [--pictures DIR] [--only real|simulated]
    benchmarks/ptycho.py --scan FILE --json FILE

A stack of its own is started; networks are trained on it and engines registered, and every scan is reconstructed over gRPC as callers do.
The rows of the recorded scan say how long each engine takes to the Fourier error `--target`; those of the simulated scans, whose truth is
known, how good a network is that learns from frames alone, beside its supervised twin and engines. Seconds and frames a second count
sending, computing and stitching. About ten minutes on two cores.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # run as a file: its neighbours shall not hide modules of the standard library, such as `profile`
        sys.path[0] = str(Path(__file__).parents[1])
    from benchmarks.ptychography.command import main

    main()
