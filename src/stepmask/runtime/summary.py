"""Summary: what a masked run did, in numbers and in a line."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Summary:
    """Says what a run did, or would do where none has been made yet."""

    rows: int
    """Steps of the run, from the row at which it began; of several denoisers that run at every step, those of each."""
    computes: int
    forecasts: int
    """Cells that extrapolate two cached values; a forecast that finds one yet is a reuse."""
    reuses: int
    dead: int
    macs_fraction: float
    """Kept share of the full run's MACs."""
    macs_per_image: float
    """Multiply-accumulates of the run per image, attention products included, with the pipeline's default guidance."""
    peak_cache_bytes: int
    """Largest sum of all cached values in the latest run; 0 before the first."""
    graphs: int = 0
    """Rows of compiled blocks that differ, each a graph that blocks of a class share. 0 where compiled blocks run as a
    whole or not at all: the graph that they have without a mask does."""
    resting_rows: int = 0
    """Steps at which no site computes: all that the denoiser does is around them."""

    def __str__(self) -> str:
        """One line in words."""
        rest = f", {self.resting_rows} of which rest as a whole" if self.resting_rows else ""
        graphs = f"; {self.graphs} graphs for the rows of compiled blocks" if self.graphs else ""
        return (
            f"{self.rows} steps{rest}; "
            f"{self.macs_fraction:.1%} of the MACs ({self.macs_per_image / 1e9:.2f} G per image); "
            f"peak cache {self.peak_cache_bytes / 2**20:.1f} MiB; "
            f"cells: {self.computes} compute, {self.forecasts} forecast, {self.reuses} reuse, {self.dead} dead{graphs}"
        )

    def to_dict(self) -> dict[str, float]:
        """The fields as a dictionary."""
        return asdict(self)
