"""What the puzzle demo shows in the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.cli import output
from tessera.cli.demo.asking import CONCURRENCY, PHASES, Answers
from tessera.errors import DataLossError


@dataclass(frozen=True)
class Report:
    """What came of a demo.

    Args:
        family: Family.
        architecture: Network.
        model: Model.
        version: Its version.
        parameters: Of the network.
        epochs: Trained.
        train_seconds: From the claim of the job to its registration.
        measured: Metrics that training measured in eval mode.
        answers: What the server said.
        pictures: Where the pictures lie.
    """

    family: str
    architecture: str
    model: str
    version: int
    parameters: int
    epochs: int
    train_seconds: float
    measured: dict[str, float]
    answers: Answers
    pictures: list[Path]

    def check_agreement(self) -> None:
        """Make sure that the served answers are as good as training measured, up to one piece that may be a tie, and that runtimes agree.

        Raises:
            DataLossError: They are not.
        """
        tolerance = 1.5 / (len(self.answers.loaded.answers) or 1)
        for k in (1, 5):
            served, measured = self.answers.top(k), self.measured[f"top{k}"]
            if abs(served - measured) > tolerance:
                raise DataLossError(
                    f"the server's top-{k} is {served:.4f}, training measured {measured:.4f}: the two do not prepare pictures alike, "
                    f"or requests failed ({len(self.answers.loaded.errors)}; {', '.join(sorted(set(self.answers.loaded.errors))[:3])})"
                )

        agreement = self.answers.agreement()
        if len(self.answers.runtimes) > 1 and agreement.equal < len(self.answers.loaded.answers):
            raise DataLossError(
                f"the runtimes {', '.join(self.answers.runtimes)} give equal answers for {agreement.equal} of "
                f"{len(self.answers.loaded.answers)} pieces; the probabilities differ by up to {agreement.largest_difference:g}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; `p50_ms` and `p99_ms` are of requests one at a time, `requests_per_s` of many at once."""
        loaded, alone = self.answers.loaded, self.answers.alone
        return {
            "family": self.family,
            "architecture": self.architecture,
            "model": self.model,
            "version": self.version,
            "parameters": self.parameters,
            "epochs": self.epochs,
            "train_seconds": round(self.train_seconds, 2),
            "top1": self.answers.top(1),
            "top5": self.answers.top(5),
            "top1_measured_in_training": self.measured["top1"],
            "top5_measured_in_training": self.measured["top5"],
            "requests": len(loaded.answers) + len(loaded.errors),
            "errors": len(loaded.errors),
            "concurrency": CONCURRENCY,
            "requests_per_s": round(loaded.requests_per_s, 1),
            "p50_ms": round(alone.percentile_ms(50), 3),
            "p99_ms": round(alone.percentile_ms(99), 3),
            "loaded_p50_ms": round(loaded.percentile_ms(50), 3),
            "loaded_p99_ms": round(loaded.percentile_ms(99), 3),
            "phases_ms": {
                phase: {"p50": round(alone.percentile_ms(50, phase), 3), "p99": round(alone.percentile_ms(99, phase), 3)}
                for phase in PHASES
            },
            "runtimes": {
                name: {
                    "requests": len(round_.answers) + len(round_.errors),
                    "errors": len(round_.errors),
                    "requests_per_s": round(round_.requests_per_s, 1),
                    "p50_ms": round(round_.percentile_ms(50), 3),
                    "p99_ms": round(round_.percentile_ms(99), 3),
                }
                for name, round_ in self.answers.runtimes.items()
            },
            "equal_answers": self.answers.agreement().equal,
            "largest_probability_difference": self.answers.agreement().largest_difference,
            "pictures": [str(picture) for picture in self.pictures],
        }

    def show(self) -> None:
        """Print the figures as tables, and where the pictures lie."""
        loaded, alone = self.answers.loaded, self.answers.alone
        output.print_fields(
            {
                "model": f"{self.model} version {self.version}: {self.family}, {self.architecture}",
                "parameters": f"{self.parameters:,}",
                "trained": f"{self.epochs} epochs in {output.duration_text(self.train_seconds)}",
                "top-1, eval mode": f"{self.answers.top(1):.2%} served, {self.measured['top1']:.2%} measured in training",
                "top-5, eval mode": f"{self.answers.top(5):.2%} served, {self.measured['top5']:.2%} measured in training",
                "requests": f"{len(loaded.answers) + len(loaded.errors)}, errors {len(loaded.errors)}",
                "throughput": f"{loaded.requests_per_s:.0f} requests/s with {CONCURRENCY} at once",
            }
        )
        output.stdout().print()
        output.print_table(
            ("LATENCY, ms", "p50 ALONE", "p99 ALONE", f"p50 OF {CONCURRENCY} AT ONCE", f"p99 OF {CONCURRENCY} AT ONCE"),
            [
                (phase or "total", *(f"{round_.percentile_ms(percent, phase):.2f}" for round_ in (alone, loaded) for percent in (50, 99)))
                for phase in (None, *PHASES)
            ],
        )
        output.stdout().print()
        agreement = self.answers.agreement()
        output.print_table(
            ("RUNTIME", "PIECES", "ERRORS", "REQUESTS/S", "p50, ms", "p99, ms", "EQUAL ANSWERS"),
            [
                (
                    name,
                    len(round_.answers) + len(round_.errors),
                    len(round_.errors),
                    f"{round_.requests_per_s:.0f}",
                    *(f"{round_.percentile_ms(percent):.2f}" for percent in (50, 99)),
                    f"{agreement.equal}, within {agreement.largest_difference:.1g}",
                )
                for name, round_ in self.answers.runtimes.items()
            ],
        )
        output.stdout().print()
        for picture in self.pictures:
            output.stdout().print(str(picture), soft_wrap=True, highlight=False)
