"""Run a command that the kernel kills when its parent dies: `python die_with_parent.py PARENT_PID COMMAND...`.

A program of its own because the setting has to be made between fork and exec, where a parent with threads must not run Python.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the stack's own programs


if __name__ == "__main__":
    main()
