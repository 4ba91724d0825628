"""Task "ptychography": an object's complex transmission from diffraction patterns of overlapping patches.

A scan is M frames of N x N pixels, recorded at M positions. Everything here uses one form of it, whatever a file or a caller has:

- amplitudes: float32, (M, N, N), the square roots of the counts, zero frequency in the centre (index N // 2);
- positions: float64, (M, 2), pixels of the object, component 0 = x (columns, to the right), 1 = y (rows, downwards); a position is the
  centre of its patch, pixel (N // 2, N // 2);
- probe: complex64, (modes, N, N), in the object's plane, centred;
- object: complex64, (rows, columns).

Forward model: amplitude = sqrt(sum over modes of |FFT2(P O)|^2 / N^2), shifted so that zero frequency is in the centre. Across tensor
interfaces a complex array is float32 with a channel axis of two, real and imaginary part, before rows and columns.
"""

NAME = "ptychography"
"""Name of the task in manifests."""
REVISION = 1
"""Grows whenever the same scan would become other tensors, or the same tensors another object."""
