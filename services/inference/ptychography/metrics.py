"""The numbers of reconstructions that are waited for. What each one tells stands in docs/guides/observability.md."""

from prometheus_client import Counter, Gauge

RUNNING = Gauge("inference_reconstructions", "Reconstructions that are waited for, at work now")
FRAMES = Counter("inference_reconstruction_frames", "Frames that came over streams")
