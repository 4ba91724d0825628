"""Where the inference service spends its CPU time: by thread, and by function as a flame graph.

    python -m benchmarks.profile [--clients 32] [--seconds 5] [--flame docs/images/serving-flame.svg]

The load is that of the row `ours onnxruntime OIP raw` of `benchmarks.serving`. The threads' times come from /proc. The flame graph is
py-spy's (`pip install py-spy`; as root, or with kernel.yama.ptrace_scope=0) and shows what holds Python's lock: the event loop above all.
"""

import argparse
import asyncio
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.serving import servers
from benchmarks.serving.client import Generator
from benchmarks.serving.jobs import Job, Load, Target
from benchmarks.serving.publishing import MODEL

TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*(</text>)')
"""py-spy puts its own command there, with the paths of the machine."""
THREAD = re.compile(r'Thread (\d+) .*?: "(.+)"')


def cpu_by_thread(pid: int) -> dict[str, float]:
    """Return the CPU seconds of each thread of a process, by its id."""
    seconds = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds = (task / "schedstat").read_text().split()[0]
        seconds[task.name] = int(nanoseconds) / 1e9
    return seconds


def names(pid: int, spy: str | None) -> dict[str, str]:
    """Return the names of the threads of a process by their ids: Python's own, where py-spy is there to tell, else the kernel's."""
    known = {task.name: (task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}
    if spy:
        known |= THREAD.findall(subprocess.run([spy, "dump", "--pid", str(pid)], capture_output=True, text=True, check=True).stdout)
    return known


def record(pid: int, spy: str | None, seconds: float, path: Path) -> "subprocess.Popen[bytes]":
    """Begin to record a flame graph."""
    if spy is None:
        raise SystemExit("a flame graph needs py-spy, which is not installed: pip install py-spy")
    options = ["--gil", "--function", "--rate", "500", "--duration", str(round(seconds)), "--output", str(path)]
    return subprocess.Popen([spy, "record", "--pid", str(pid), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def profile(address: str, pid: int, options: argparse.Namespace) -> None:
    """Put the load on the service and print what its threads did."""
    spy = shutil.which("py-spy")
    generator, target, load = Generator(), Target("oip", address, pid, MODEL), Load("closed", options.clients)
    await generator.run(Job(target, load, 1.0, 1.0))
    before = cpu_by_thread(pid)
    outcome = await generator.run(Job(target, load, options.seconds, 0.0))
    after = cpu_by_thread(pid)
    answered = len(outcome.seconds)
    print(f"{options.clients} clients: {answered / outcome.wall_s:.0f} req/s; CPU ms a request, by thread:")
    known = names(pid, spy)
    spent = {thread: (seconds - before.get(thread, 0.0)) / answered * 1000 for thread, seconds in after.items()}
    for thread, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        if milliseconds >= 0.0005:
            print(f"{milliseconds:9.4f}  {known.get(thread, thread)}")
    print(f"{sum(spent.values()):9.4f}  together; the load generator took {outcome.client_cpu_s / answered * 1000:.4f}")
    if options.flame:  # only now: the profiler stops the process for each of its looks
        with record(pid, spy, options.seconds, options.flame):
            await generator.run(Job(target, load, options.seconds + 1, 0.0))
        options.flame.write_text(
            TITLE.sub(r"\1What holds Python's lock: python -m benchmarks.profile --flame FILE.svg\2", options.flame.read_text())
        )


def main() -> None:
    """Run the service and profile it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--flame", type=Path, help="SVG file to write a flame graph to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tessera-profile-") as folder, servers.service(Path(folder)) as (address, pid):
        asyncio.run(profile(address, pid, options))


if __name__ == "__main__":
    main()
