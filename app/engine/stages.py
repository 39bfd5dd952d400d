"""Where a request's time went."""

from __future__ import annotations

from dataclasses import dataclass, field

NAMES = ("decode", "encode_wait", "encode", "run_wait", "run", "format")


@dataclass(slots=True)
class Stages:
    """What was done for one request: each stage's start (`time.perf_counter`) and seconds. A known image has neither
    ``decode`` nor ``encode``; who joined another request's encode has ``shared`` in their place."""

    spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, start: float, end: float) -> None:
        """Note one stage."""
        self.spans[name] = (start, max(0.0, end - start))

    def end(self, name: str, end: float) -> None:
        """Note when a stage ended, if it began."""
        if name in self.spans:
            self.add(name, self.spans[name][0], end)

    def server_timing(self) -> str:
        """The value of a Server-Timing header, in milliseconds."""
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, (_, seconds) in self.spans.items())
