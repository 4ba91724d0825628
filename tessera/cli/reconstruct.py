"""`tessera reconstruct`: an object from the diffraction patterns of a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, Runtime, complete_models
from tessera.errors import InvalidArgumentError
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.api.inference.v1 import ptychography_pb2 as pb
    from tessera.cli.reconstructing import Reconstructed
    from tessera.client import Client
    from tessera.tasks.ptychography.metrics import Comparison, Correlation

WEIGHTINGS = ("probe", "uniform")


def reconstruct(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A scan: .npz, .npz.bz2, CXI or HDF5, .safetensors (docs/guides/ptychography.md).")],
    *,
    model: Annotated[str, typer.Option("--model", help="A network, or an engine.", autocompletion=complete_models)] = "ptycho",
    version: Annotated[int | None, typer.Option("--version", min=1, help="An exact version.", show_default="the alias")] = None,
    alias: Annotated[str, typer.Option("--alias", help="Which version, by alias.")] = DEFAULT_ALIAS,
    refine: Annotated[
        str,
        typer.Option(
            "--refine", help="An engine that goes on from what the model found.", autocompletion=complete_models, show_default="none"
        ),
    ] = "",
    iterations: Annotated[int, typer.Option("--iterations", min=1, max=10_000, help="Most passes of an engine over the scan.")] = 50,
    target: Annotated[float, typer.Option("--target", min=0, max=1, help="An engine stops at this Fourier error.")] = 0.0,
    batch: Annotated[
        int, typer.Option("--batch", min=0, max=1024, help="Frames that an engine takes at a time.", show_default="its own")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=-(2**63), max=2**63 - 1, help="Of the order in which an engine takes the frames.")] = 0,
    fixed_probe: Annotated[bool, typer.Option("--fixed-probe", help="Leave the probe as it is.")] = False,
    correct_positions: Annotated[bool, typer.Option("--correct-positions", help="Improve the positions too.")] = False,
    trust_positions: Annotated[
        bool, typer.Option("--trust-positions", help="Do not ask whether the frames fit swapped or mirrored positions better.")
    ] = False,
    weighting: Annotated[
        str,
        typer.Option(
            "--weighting",
            help=f"How patches of a network are merged: {' or '.join(WEIGHTINGS)}.",
            autocompletion=lambda: WEIGHTINGS,
            show_default="probe, where there is one",
        ),
    ] = "",
    crop: Annotated[
        int, typer.Option("--crop", min=0, max=1024, help="Central pixels of each patch of a network.", show_default="half of it")
    ] = 0,
    runtime: Runtime = "",
    queue: Annotated[bool, typer.Option("--queue", help="Upload the scan and queue it; it goes on if this command is stopped.")] = False,
    half_scans: Annotated[
        bool, typer.Option("--half-scans", help="Reconstruct two halves of the scan too, and tell the resolution without a truth.")
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="Where pictures go.", show_default="FILE-reconstruction", file_okay=False),
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the arrays to this .npz file.", dir_okay=False)] = None,
    json: Json = False,
) -> None:
    """Reconstruct the object of a ptychographic scan: amplitude, phase, probe, and how well they explain what was recorded."""
    from tessera.cli.arrays import save_arrays
    from tessera.cli.reconstruction_output import check_libraries, draw
    from tessera.cli.train import check_readable
    from tessera.client.ptychography import reconstruction_plan
    from tessera.tasks.ptychography.files import read_scan

    check_libraries()
    if half_scans and queue:
        raise InvalidArgumentError("--half-scans needs three reconstructions, --queue submits one; use one of them")
    check_readable(file, str(file))
    scan = read_scan(file, field=file.name, trust_positions=trust_positions)
    directory = _directory(pictures or Path(f"{file.name.partition('.')[0]}-reconstruction"))
    plan = reconstruction_plan(
        model,
        version=version,
        alias=alias if version is None else None,
        refine_with=refine,
        iterations=iterations,
        target_fourier_error=target,
        weighting=_weighting(weighting),
        crop=crop,
        fixed_probe=fixed_probe,
        correct_positions=correct_positions,
        batch=batch,
        seed=seed,
        probe=None if queue else scan.probe,  # a queued scan has it beside the frames
    )

    async def main(client: "Client") -> "tuple[Reconstructed, Correlation | None]":
        from tessera.cli.reconstructing import correlate_half_scans, reconstruct_queued, reconstruct_scan
        from tessera.cli.reconstruction_output import Watcher

        if queue:
            return await reconstruct_queued(client, scan, plan, runtime=runtime), None
        done = await reconstruct_scan(client, scan, plan, Watcher(file.name, iterations, directory), runtime=runtime)
        return done, await correlate_half_scans(client, scan, plan, runtime=runtime) if half_scans else None

    done, halves = run(ctx, main)
    compared = _compared(done)
    curves = {name: curve for name, curve in (("truth", compared and compared.correlation), ("half scans", halves)) if curve}
    drawn = draw(done, directory, curves, target)
    if save:
        save_arrays(save, done.tensors)
    figures = done.figures() | {
        "truth": compared and compared.figures(),
        "half_scans": halves and {"frc50": halves.frc50, "frc_half_bit": halves.frc_half_bit},
        "pictures": [str(path) for path in drawn],
    }
    if json:
        output.print_json(figures)
        return
    output.print_fields(_lines(done, compared, halves))
    for path in drawn:
        output.stdout().print(str(path), soft_wrap=True, highlight=False)


def _weighting(name: str) -> "pb.ReconstructionWeighting.ValueType":
    from tessera.api.inference.v1 import ptychography_pb2 as pb

    if name and name not in WEIGHTINGS:
        raise InvalidArgumentError.unknown("weighting", name, WEIGHTINGS)
    return pb.ReconstructionWeighting.Value(f"RECONSTRUCTION_WEIGHTING_{name.upper() or 'UNSPECIFIED'}")


def _directory(path: Path) -> Path:
    """Make a directory now: who cannot write there must not wait for a reconstruction first."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"--pictures {path}: cannot make the directory: {error.strerror}") from error
    return path


def _compared(done: "Reconstructed") -> "Comparison | None":
    """Return the figures against the truth, if the file has one in the coordinates of its positions."""
    if done.scan.truth is None:
        return None
    try:
        return done.comparison()
    except InvalidArgumentError as error:
        output.note(f"not compared with the file's truth: {error.message}")
        return None


def _lines(done: "Reconstructed", compared: "Comparison | None", halves: "Correlation | None") -> dict[str, str]:
    """Return what people read."""
    rows, columns = done.tensors["amplitude"].shape
    lines = {
        "engine": f"{done.engine} on {', '.join(sorted({one.runtime for one in done.answered_by}))}",
        "object": f"{columns} x {rows} pixels, upper left at ({done.corner[0]:.2f}, {done.corner[1]:.2f})",
        "frames": f"{len(done.scan)} of {done.scan.size} x {done.scan.size} pixels",
        "time": f"{output.duration_text(done.seconds)}, {done.frames_per_s:.0f} frames/s with stitching",
    }
    if done.errors:
        passes = f" after {done.iterations} passes, {done.errors[0]:.4g} before" if done.iterations else ""
        lines["Fourier error"] = f"{done.errors[-1]:.4g}{passes}"
    if compared:
        lines["amplitude, against the truth"] = (
            f"PSNR {compared.amplitude_psnr:.1f} dB, SSIM {compared.amplitude_ssim:.3f}, MAE {compared.amplitude_mae:.4f}"
        )
        lines["phase, against the truth"] = (
            f"PSNR {compared.phase_psnr:.1f} dB, SSIM {compared.phase_ssim:.3f}, MAE {compared.phase_mae:.4f} rad"
        )
        lines["resolution, against the truth"] = _resolution(compared.correlation)
    if halves:
        lines["resolution, of half scans"] = _resolution(halves)
    return lines


def _resolution(curve: "Correlation") -> str:
    return f"FRC50 {curve.frc50:.3f}, 1/2 bit {curve.frc_half_bit:.3f} cycles per pixel (Nyquist 0.5)"
