"""Pictures of scans and reconstructions for people: amplitude, phase, probe, positions, and curves of errors and resolution.

Drawn with matplotlib through its objects, never pyplot, so that servers and threads can draw at the same time. x runs to the right and y
downwards, as in arrays.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.tasks.ptychography.alignment import remove_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tessera.tasks.ptychography.metrics import Correlation

Complex = NDArray[np.complexfloating]
DPI = 110
PERCENTILES = (0.5, 99.5)
"""Of the pixels that were seen, shown as the ends of the scale: single bright pixels must not hide the rest."""
LEAST_WEIGHT = 0.02
"""Share of the largest weight below which a pixel was hardly seen and is left blank."""
LEAST_MOVE = 1e-3
"""Pixels: less is a matter of the number of digits."""
BLANK = "#e8e8ea"


def draw_amplitude(array: Complex, weight: NDArray[np.floating] | None = None, title: str = "amplitude") -> Image.Image:
    """Draw the amplitude of an object (rows, columns), grey; blank where `weight`, of the same shape, says that little was seen."""
    figure, axes = _figure(1, 1)
    _map(axes[0], np.abs(array), _seen(array, weight), title)
    return _image(figure)


def draw_phase(array: Complex, weight: NDArray[np.floating] | None = None, title: str = "phase, rad") -> Image.Image:
    """Draw the phase of an object (rows, columns) without its plane, grey; blank as in `draw_amplitude`."""
    figure, axes = _figure(1, 1)
    seen = _seen(array, weight)
    _map(axes[0], _phase(array, seen), seen, title)
    return _image(figure)


def draw_objects(objects: Mapping[str, Complex]) -> Image.Image:
    """Draw objects on the same pixels side by side, amplitudes above and phases below, each row with the scale of the first object.

    Args:
        objects: By title, (rows, columns) each; the first is what the others are compared with, such as the truth.
    """
    figure, axes = _figure(2, len(objects))
    everything = np.ones(next(iter(objects.values())).shape, bool)
    amplitudes = [np.abs(array) for array in objects.values()]
    phases = [_phase(array, everything) for array in objects.values()]
    for place, title, values in zip(axes, objects, amplitudes, strict=False):
        _map(place, values, everything, f"{title}: amplitude", scale=amplitudes[0])
    for place, title, values in zip(axes[len(objects) :], objects, phases, strict=True):
        _map(place, values, everything, f"{title}: phase, rad", scale=phases[0])
    return _image(figure)


def draw_probe(probe: Complex) -> Image.Image:
    """Draw the modes of a probe (modes, rows, columns) side by side: hue is the phase, brightness the amplitude, one scale for all."""
    from matplotlib.colors import hsv_to_rgb

    brightest = max(float(np.abs(probe).max()), float(np.finfo(np.float32).tiny))
    powers = np.sum(np.abs(probe) ** 2, axis=(1, 2))
    figure, axes = _figure(1, len(probe))
    for number, (place, mode) in enumerate(zip(axes, probe, strict=True)):
        hue = np.angle(mode) / (2 * np.pi) % 1.0
        place.imshow(hsv_to_rgb(np.stack([hue, np.full(mode.shape, 0.9), np.abs(mode) / brightest], axis=-1)), interpolation="nearest")
        share = f", {powers[number] / max(powers.sum(), np.finfo(np.float32).tiny):.0%} of the power" if len(probe) > 1 else ""
        place.set_title(f"probe{f' mode {number}' if len(probe) > 1 else ''} (hue is phase){share}", fontsize=9)
    return _image(figure)


def draw_positions(positions: NDArray[np.floating], improved: NDArray[np.floating] | None = None) -> Image.Image:
    """Draw the centres of the frames in the order in which they were recorded, dark to bright.

    Args:
        positions: (M, 2), (x, y), pixels.
        improved: Where an engine believes they were, of the same shape; lines lead there, ten times as long as the way.
    """
    figure, (place,) = _figure(1, 1)
    dots = place.scatter(
        positions[:, 0], positions[:, 1], c=np.arange(len(positions)), s=max(3.0, 60 / len(positions) ** 0.5), cmap="viridis"
    )
    figure.colorbar(dots, ax=place, label="frame", shrink=0.8)
    title = f"{len(positions)} scan positions"
    if improved is not None and not np.allclose(improved, positions, rtol=0, atol=LEAST_MOVE):
        moved = improved - positions
        ends = positions + 10 * moved
        place.plot([positions[:, 0], ends[:, 0]], [positions[:, 1], ends[:, 1]], color="#d62728", linewidth=0.7, zorder=0.5)
        title += f", corrections x 10 (rms {np.sqrt(np.mean(np.sum(moved**2, axis=1))):.2f} px)"
    place.set_title(title, fontsize=10)
    place.set_aspect("equal")
    place.invert_yaxis()
    place.set_xlabel("x, px")
    place.set_ylabel("y, px")
    return _image(figure)


def draw_correlations(curves: "Mapping[str, Correlation]") -> Image.Image:
    """Draw Fourier ring correlations by name, with the thresholds 0.5 and 1/2 bit."""
    figure, (place,) = _figure(1, 1, wide=True)
    for name, curve in curves.items():
        place.plot(curve.frequencies, curve.values, label=f"{name}: FRC50 {curve.frc50:.3f}, 1/2 bit {curve.frc_half_bit:.3f}")
    first = next(iter(curves.values()))
    place.axhline(0.5, color="grey", linewidth=0.8, linestyle=":", label="0.5")
    place.plot(first.frequencies, first.half_bit, color="grey", linewidth=0.8, linestyle="--", label="1/2 bit")
    place.set(xlim=(0, 0.5), ylim=(min(-0.05, *(float(curve.values.min()) for curve in curves.values())), 1.02))
    place.set(xlabel="spatial frequency, cycles per pixel (0.5 is Nyquist)", ylabel="Fourier ring correlation")
    place.legend(fontsize=8)
    return _image(figure)


def draw_errors(curves: Mapping[str, Sequence[float] | NDArray[np.floating]], target: float = 0.0) -> Image.Image:
    """Draw Fourier errors by name over passes, the first before any pass; with a line at a target above 0."""
    figure, (place,) = _figure(1, 1, wide=True)
    for name, errors in curves.items():
        place.plot(np.arange(len(errors)), errors, marker="." if len(errors) < 60 else "", label=f"{name}: {float(errors[-1]):.4g}")
    if target > 0:
        place.axhline(target, color="grey", linewidth=0.8, linestyle="--", label=f"target {target:g}")
    place.set(yscale="log", xlabel="passes over the scan", ylabel="Fourier error")
    place.grid(visible=True, which="both", linewidth=0.3)
    place.legend(fontsize=8)
    return _image(figure)


def _phase(array: Complex, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the phase without its plane, which only pixels that were seen decide."""
    return np.angle(remove_plane(np.where(seen, array, 0)))


def _seen(array: Complex, weight: NDArray[np.floating] | None) -> NDArray[np.bool_]:
    return np.ones(array.shape, bool) if weight is None or not weight.any() else np.asarray(weight > LEAST_WEIGHT * weight.max())


def _map(
    place: "Axes", values: NDArray[np.floating], seen: NDArray[np.bool_], title: str, scale: NDArray[np.floating] | None = None
) -> None:
    """Draw values as grey pixels with a bar that says what the greys mean."""
    least, greatest = np.percentile(values[seen] if scale is None else scale, PERCENTILES)
    place.set_facecolor(BLANK)
    drawn = place.imshow(
        np.ma.masked_where(~seen, values), cmap="gray", vmin=least, vmax=max(greatest, least + 1e-6), interpolation="nearest"
    )
    place.set_title(title, fontsize=10)
    place.figure.colorbar(drawn, ax=place, shrink=0.8)


def _figure(rows: int, columns: int, *, wide: bool = False) -> "tuple[Figure, list[Any]]":
    """Return a figure and its places, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = (7.0, 4.4) if wide else (4.8 * columns, 4.2 * rows)
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _image(figure: "Figure") -> Image.Image:
    """Return a figure as an RGB image."""
    canvas: Any = figure.canvas
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
