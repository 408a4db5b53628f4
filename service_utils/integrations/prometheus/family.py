"""One metric with all its children, of which there may be only so many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from service_utils.integrations.prometheus.names import OTHER, Spec

__all__ = ["MOST", "Family", "counter", "histogram"]

M = TypeVar("M", Counter, Histogram, Gauge)

MOST = 500
"""Sets of labels of one metric. Fifty clients need less; who makes names out of ids meets it."""


class Family(Generic[M]):
    """A metric and its children by their labels. Not for several threads at once.

    Beyond :data:`MOST` sets of labels those values that the code does not list become ``other``: names that
    somebody makes of ids must not fill the memory of Prometheus.

    Args:
        spec: Which metric.
        metric: The one of prometheus_client.
    """

    __slots__ = ("_children", "_metric", "_open")

    def __init__(self, spec: Spec, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}
        self._open = tuple(label in spec.open for label in spec.labels)

    def of(self, *labels: str) -> M:
        """The child with these values of the labels."""
        child = self._children.get(labels)
        return self._made(labels) if child is None else child

    def _made(self, labels: tuple[str, ...]) -> M:
        if len(self._children) >= MOST:
            pairs = zip(labels, self._open, strict=True)
            labels = tuple(OTHER if is_open else value for value, is_open in pairs)
        child = self._children.get(labels)
        if child is None:  # the others are as few as the values that the code lists
            child = self._children[labels] = self._metric.labels(*labels)
        return child

    def collect(self) -> Iterator[Metric]:
        """What it has counted, without the moments at which its children were made: nobody asks for those."""
        for metric in self._metric.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric


def counter(spec: Spec) -> Family[Counter]:
    """A counter of its own, in no registry."""
    return Family(spec, Counter(spec.name, spec.help, spec.labels, registry=None))


def histogram(spec: Spec) -> Family[Histogram]:
    """A histogram of its own, in no registry."""
    made = Histogram(spec.name, spec.help, spec.labels, registry=None, buckets=spec.buckets)
    return Family(spec, made)
