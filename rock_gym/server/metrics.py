"""Figures for Prometheus: requests, their time and outcome, and what the server holds."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600)


class Metrics:
    """The figures of one server, apart from those of any other in the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests: dict[tuple[str, str], int] = {}
        self._times: dict[str, _Times] = {}
        self._registry.register(_Requests(self._requests, self._times))

    def count(self, path: str, outcome: str, seconds: float) -> None:
        """Count a request, on the event loop. Paths are those of routes, so that there are few."""
        # The library's own counters each take a lock, on the way of every request.
        key = (path, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        times = self._times.get(path)
        if times is None:
            times = self._times[path] = _Times()
        times.seconds += seconds
        times.counts[bisect_left(_BUCKETS, seconds)] += 1

    def watch(self, name: str, text: str, label: str, read: Callable[[], Iterable[str]]) -> None:
        """Have things counted when the figures are asked for.

        Args:
            name: The figure's name.
            text: What it is.
            label: What tells the things apart.
            read: Returns that label's value for each thing there is.
        """
        self._registry.register(_Gauge(name, text, label, read))

    def text(self) -> bytes:
        """Return all figures in Prometheus's format."""
        return generate_latest(self._registry)


class _Times:
    """How long the requests of a path took: a count for each bucket, and one for what is above."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0


class _Requests:
    def __init__(self, requests: dict[tuple[str, str], int], times: dict[str, _Times]) -> None:
        self._requests, self._times = requests, times

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "rock_gym_requests", "Requests by path and outcome.", labels=("path", "outcome")
        )
        for key, count in self._requests.items():
            requests.add_metric(key, count)
        yield requests
        seconds = HistogramMetricFamily(
            "rock_gym_request_seconds", "How long requests took.", labels=("path",)
        )
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        for path, times in self._times.items():
            counts = list(accumulate(times.counts))
            seconds.add_metric((path,), list(zip(bounds, counts, strict=True)), times.seconds)
        yield seconds


class _Gauge:
    def __init__(self, name: str, text: str, label: str, read: Callable[[], Iterable[str]]) -> None:
        self._name, self._text, self._label, self._read = name, text, label, read

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily(self._name, self._text, labels=(self._label,))
        for value, count in Tally(self._read()).items():
            gauge.add_metric((value,), count)
        yield gauge
