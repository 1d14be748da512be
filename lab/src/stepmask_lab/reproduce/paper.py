"""What arXiv 2603.19939 prints: the numbers of its Tables 1 to 5, as data.

Source: He, Gao, Zhang, Xia, "Timestep-Aware Block Masking for Efficient Diffusion Model Inference", 2026. MACs and
speed-ups are relative to the uncached model on the same sampler; MACs are those of a whole run for one image, in T.
The paper counts guidance nowhere, and attention's products only for DiT; `PaperModel.convention` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SOURCE = "arXiv 2603.19939"
Convention = Literal["conv+lin", "full"]

ORIGINAL, FEWER, MASKING = "full run", "fewer steps", "block masking"
DEEPCACHE, FORA, L2C, DITFASTATTN = "DeepCache", "FORA", "Learning-to-Cache", "DiTFastAttn"
DIFF_PRUNING, CONSISTENCY, DIP_GO = "Diff-Pruning", "consistency model (CT)", "DiP-GO"


@dataclass(frozen=True)
class PaperRow:
    """One line of a table of the paper.

    Attributes:
        method: As our tables call it.
        macs: T of a run; None where the paper prints none.
        speedup: Over the original.
        quality: Scores by name: FID, IS, sFID, CLIP.
        train_hours: To learn, where the paper prints it.
        steps: Where they are not those of the model.
    """

    method: str
    macs: float | None = None
    speedup: float | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    train_hours: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class PaperModel:
    """One model of Tables 1 to 3.

    Attributes:
        name: Model and data.
        steps: T.
        preset: The same structure in `stepmask.presets`.
        convention: What the paper's MACs count: ``"full"`` has the products of attention.
        rows: As printed, the original first.
        reference: The reference model that stands for it; None where none does.
        deepcache: Skip connection and interval at which DeepCache has the paper's MACs: the paper prints neither.
        sampler: That the paper runs it with.
    """

    name: str
    steps: int
    preset: str
    convention: Convention
    rows: tuple[PaperRow, ...]
    reference: str | None = None
    deepcache: tuple[int, int] | None = None
    sampler: Literal["DDIM", "DPM-Solver"] = "DDIM"

    def row(self, method: str) -> PaperRow | None:
        """The line of a method; None where the paper has none."""
        return next((row for row in self.rows if row.method == method), None)

    @property
    def share(self) -> float:
        """MACs that block masking keeps, as a share of the original's."""
        return self.share_of(MASKING)

    def share_of(self, method: str) -> float:
        """MACs that a method keeps, as a share of the original's at the method's number of steps."""
        row = self.row(method)
        return round(row.macs / self.row(ORIGINAL).macs * self.steps / (row.steps or self.steps), 3)


@dataclass(frozen=True)
class Ablation:
    """One line of Tables 4 and 5: block masking on CIFAR-10 with one thing changed."""

    name: str
    speedup: float
    fid: float


def _row(
    method: str, macs: float | None, speedup: float | None, *scores: float, hours: float | None = None
) -> PaperRow:
    return PaperRow(method, macs, speedup, dict(zip(("FID", "IS", "sFID"), scores, strict=False)), hours)


TABLES: Mapping[str, tuple[PaperModel, ...]] = {
    "table1": (
        PaperModel(
            "DDPM, CIFAR-10 32",
            100,
            "ddpm-cifar10-32",
            "conv+lin",
            (
                _row(ORIGINAL, 0.61, 1.0, 4.19),
                _row(DIFF_PRUNING, 0.34, 1.37, 5.29),
                PaperRow(CONSISTENCY, None, 1.62, {"FID": 4.68}, steps=55),
                _row(DEEPCACHE, 0.35, 1.61, 4.70),
                _row(MASKING, 0.34, 1.63, 4.66, hours=0.2),
            ),
            reference="ddpm-cifar10",
            deepcache=(2, 5),
        ),
        PaperModel(
            "DDPM, LSUN-Bedroom 256",
            100,
            "ddpm-lsun-256",
            "conv+lin",
            (
                _row(ORIGINAL, 24.9, 1.0, 6.62),
                _row(DIFF_PRUNING, 13.9, 1.48, 18.60),
                _row(DEEPCACHE, 19.1, 1.29, 6.69),
                _row(MASKING, 18.3, 1.34, 6.67, hours=0.6),
            ),
            deepcache=(2, 2),
        ),
        PaperModel(
            "DDPM, LSUN-Churches 256",
            100,
            "ddpm-lsun-256",
            "conv+lin",
            (
                _row(ORIGINAL, 24.9, 1.0, 10.58),
                _row(DIFF_PRUNING, 13.9, 1.48, 13.90),
                _row(DEEPCACHE, 19.1, 1.29, 11.31),
                _row(MASKING, 18.8, 1.31, 10.39, hours=0.6),
            ),
            deepcache=(2, 2),
        ),
    ),
    "table2": (
        PaperModel(
            "LDM-4-G, ImageNet 256",
            250,
            "ldm4-imagenet-256",
            "conv+lin",
            (
                _row(ORIGINAL, 25.0, 1.0, 3.42, 206.5, 5.14),
                _row(DIFF_PRUNING, 13.2, 1.51, 9.16, 201.8, 10.59),
                _row(DEEPCACHE, 9.1, 2.65, 3.44, 202.8, 5.11),
                _row(MASKING, 8.3, 2.75, 3.51, 205.8, 5.00, hours=2.9),
            ),
            reference="ldm-cifar10",
            deepcache=(0, 3),
        ),
        PaperModel(
            "DiT-XL/2, ImageNet 256",
            100,
            "dit-xl-2-256",
            "full",
            (
                _row(ORIGINAL, 11.9, 1.0, 2.16, 242.8, 4.45),
                PaperRow(DIP_GO, 7.4, 1.46, {"FID": 3.14}, steps=250),
                _row(L2C, 8.1, 1.38, 2.29, 240.7, 4.52, hours=17.0),
                _row(FORA, None, 1.74, 4.29, 232.7, 8.59),
                _row(MASKING, 6.7, 1.67, 2.29, 240.2, 4.45, hours=2.5),
            ),
            reference="dit-cifar10",
        ),
        PaperModel(
            "DiT-XL/2, ImageNet 512",
            50,
            "dit-xl-2-512",
            "full",
            (
                _row(ORIGINAL, 26.3, 1.0, 3.33),
                _row(L2C, 16.9, 1.54, 3.76, hours=18.4),
                _row(FORA, None, 1.67, 42.43),
                _row(MASKING, 17.9, 1.48, 3.64, hours=2.8),
            ),
        ),
    ),
    "table3": (
        PaperModel(
            "PixArt-Sigma-XL, COCO 1024",
            50,
            "pixart-sigma-1024",
            "conv+lin",
            (
                PaperRow(ORIGINAL, 107.8, 1.0, {"FID": 24.33, "CLIP": 31.27}),
                PaperRow(FEWER, 81.9, 1.32, {"FID": 24.89, "CLIP": 30.02}, steps=38),
                PaperRow(DITFASTATTN, None, 1.24, {"FID": 23.94, "CLIP": 31.18}, 0.3),
                PaperRow(MASKING, 71.9, 1.43, {"FID": 22.97, "CLIP": 31.45}, 4.2),
            ),
            reference="pixart-cifar10",
            sampler="DPM-Solver",
        ),
    ),
}
"""Tables 1 to 3. Two more numbers are printed: FIDs of the originals as their own papers report them, CIFAR-10 4.25,
LSUN-Bedroom 6.75, LSUN-Churches 10.92."""

TABLE4 = (Ablation("random sampling", 1.63, 4.66), Ablation("Gumbel-Softmax", 1.29, 4.67))
TABLE5 = (
    Ablation("block masking", 1.63, 4.66),
    Ablation("without rectification", 1.49, 4.66),
    Ablation("without loss scaling", 1.62, 4.74),
    Ablation("without bi-modal loss", 1.63, 4.72),
)


def agrees(ours: float, printed: float, tolerance: float = 0.005) -> bool:
    """Whether a number is the printed one: within `tolerance` of it, or the same when printed with as many digits."""
    digits = len(str(printed).partition(".")[2])
    return abs(ours / printed - 1) <= tolerance or round(ours, digits) == printed
