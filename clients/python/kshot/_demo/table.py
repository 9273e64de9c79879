"""The live table: rewritten in place on a terminal, a row now and then where there is none. Plain ANSI."""

from __future__ import annotations

import math
import os
from typing import TextIO

from .measurements import Latency, Summary

__all__ = ["LiveTable"]

_BAR_WIDTH = 20
_ROWS_WITHOUT_TERMINAL = 10


class LiveTable:
    """Shows summaries as they come.

    Args:
        stream: where to write; a terminal is rewritten in place.
        total: how many episodes there will be.
        support: images in a support set.
        queries: images in a query list.
    """

    def __init__(self, stream: TextIO, *, total: int, support: int, queries: int) -> None:
        self._stream = stream
        self._total = total
        self._support = support
        self._queries = queries
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lines = 0

    def show(self, summary: Summary) -> None:
        """Show where things stand."""
        if self._live:
            self._rewrite(summary)
        elif self._is_due(summary.episodes):
            self._append(summary)
        self._stream.flush()

    def _rewrite(self, summary: Summary) -> None:
        lines = self._block(summary)
        up = f"\x1b[{self._lines}A" if self._lines else ""
        # Each line is cleared to its end, so that a shorter one leaves nothing of the longer one before it.
        self._stream.write(up + "".join(f"\r{line}\x1b[K\n" for line in lines))
        self._lines = len(lines)

    def _block(self, summary: Summary) -> list[str]:
        done = round(_BAR_WIDTH * summary.episodes / self._total)
        bar = "█" * done + "░" * (_BAR_WIDTH - done)
        adapt, classify = summary.adapt_ms, summary.classify_ms
        return [
            f"  episodes   {bar}  {summary.episodes} of {self._total}",
            f"  accuracy   {_accuracy(summary)}   (95% interval)",
            f"  adapt      p50 {_ms(adapt.p50)}   p99 {_ms(adapt.p99)}   {self._support} images",
            f"  classify   p50 {_ms(classify.p50)}   p99 {_ms(classify.p99)}   {self._queries} images",
        ]

    def _is_due(self, episodes: int) -> bool:
        """About ten rows, the first and the last among them."""
        step = max(1, self._total // _ROWS_WITHOUT_TERMINAL)
        return episodes == 1 or episodes % step == 0 or episodes == self._total

    def _append(self, summary: Summary) -> None:
        if not self._lines:
            titles = (f"adapt {self._support} images", f"classify {self._queries} images")
            self._stream.write(f"  episodes   accuracy (95% CI)   {titles[0]:<28}{titles[1]}\n")
            self._lines = 1
        adapt, classify = _percentiles(summary.adapt_ms), _percentiles(summary.classify_ms)
        self._stream.write(f"  {summary.episodes:>8}   {_accuracy(summary):<19} {adapt:<28}{classify}\n")


def _accuracy(summary: Summary) -> str:
    half = "  -  " if math.isnan(summary.ci95) else f"{100 * summary.ci95:.2f}"
    return f"{100 * summary.accuracy:6.2f} ± {half} %"


def _percentiles(latency: Latency) -> str:
    return f"{_ms(latency.p50).strip()} / {_ms(latency.p99).strip()}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:7.1f} ms"
