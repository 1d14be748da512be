"""Features of sets of images: what an extractor is, a set's features, and statistics of a reference set as a file.

Extractors are known by their call alone; none is imported here.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask_lab.scores.moments import Moments

Extractor = Callable[[Tensor], Mapping[str, Tensor]]
"""Takes images (N, 3, H, W) in [0, 1]; returns ``features`` (N, D) and, where it has them, ``spatial`` (N, D') and
``logits`` (N, C). May have attributes: `name`, which scores are called after; `statistics`, a file of the reference
set that belongs to it; `standard`, true of the Inception network that FID is defined by."""

Images = Tensor | Iterable[Tensor]
"""Images (N, 3, H, W), floats in [0, 1] or uint8, or an iterator of such batches."""


def name_of(extractor: Extractor) -> str:
    """What scores on an extractor's features are called after."""
    return getattr(extractor, "name", None) or "features"


def extracted(images: Images, extractor: Extractor, batch_size: int = 250) -> Iterator[dict[str, Tensor]]:
    """Yield the features of one batch after the other, float32 on the CPU.

    Raises:
        StepMaskError: Images of another shape or range, or an extractor that gives no features.
    """
    if batch_size < 1:
        raise StepMaskError(f"batch_size must be at least 1, got {batch_size}")
    device = torch.device("cpu")
    if isinstance(extractor, nn.Module):
        if extractor.training:
            raise StepMaskError(
                "the extractor is in training mode, where features depend on the batch: call its eval()"
            )
        device = next((parameter.device for parameter in extractor.parameters()), device)
    for given in [images] if isinstance(images, Tensor) else images:
        for batch in _checked(given).split(batch_size):
            batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
            with torch.no_grad():
                seen = extractor(batch.to(device))
            if "features" not in seen or any(len(values) != len(batch) for values in seen.values()):
                raise StepMaskError(
                    "an extractor must return a dictionary with 'features' (N, D), and 'spatial' and 'logits' where "
                    f"it has them, one row per image; got { ({name: tuple(v.shape) for name, v in seen.items()}) }"
                )
            yield {name: values.flatten(1).float().cpu() for name, values in seen.items()}


def _checked(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise StepMaskError(f"images must be tensors of the shape (N, 3, H, W), or batches of such; got {shape}")
    if images.is_floating_point() and len(images):
        low, high = images.min().item(), images.max().item()
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN is refused too
            raise StepMaskError(f"images must lie in [0, 1], got values from {low:.3g} to {high:.3g}")
    return images


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """All features of the images of a set, one row per image, in memory.

    Attributes:
        features: (N, D) float32.
        spatial: (N, D'), or None where the extractor has none.
        probabilities: (N, C), or None.
    """

    features: Tensor
    spatial: Tensor | None
    probabilities: Tensor | None

    @classmethod
    def of(cls, images: Images, extractor: Extractor, batch_size: int = 250) -> FeatureSet:
        """Extract the features of a tensor of images or of an iterator of batches."""
        parts = list(extracted(images, extractor, batch_size))
        if not parts:
            raise StepMaskError("there are no images to score")
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        probabilities = whole["logits"].softmax(1) if "logits" in whole else None
        return cls(whole["features"], whole.get("spatial"), probabilities)

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What is kept of a reference set: a megabyte or two, not the images.

    Attributes:
        features: Moments.
        spatial: Moments of the spatial features, or None.
        sample: (M, D) float32, features of images drawn at random, for precision, recall and the kernel distance.
        extractor: Name of the extractor.
        source: Of what images, in words.
    """

    features: Moments
    spatial: Moments | None
    sample: Tensor | None
    extractor: str
    source: str

    @classmethod
    def of(
        cls,
        images: Images,
        extractor: Extractor,
        *,
        source: str = "a set of images",
        num_samples: int = 5000,
        batch_size: int = 250,
        seed: int = 0,
    ) -> FeatureStatistics:
        """Statistics of a tensor of images or of an iterator of batches; only the sample is held in memory.

        Args:
            images: The reference set.
            extractor: What scores will be computed with.
            source: What the images are, in words.
            num_samples: Images whose own features are kept, drawn at random from all.
            batch_size: Images per call of the extractor.
            seed: Of that draw.
        """
        generator = torch.Generator().manual_seed(seed)
        moments: dict[str, Moments] = {}
        sample, lots = torch.empty(0), torch.empty(0)
        for seen in extracted(images, extractor, batch_size):
            for name in {"features", "spatial"} & set(seen):
                batch = Moments.of(seen[name])
                moments[name] = moments[name].merge(batch) if name in moments else batch
            features = seen["features"]
            sample = torch.cat([sample, features]) if len(sample) else features
            lots = torch.cat([lots, torch.rand(len(features), generator=generator)])
            kept = lots.topk(min(num_samples, len(lots)), sorted=False).indices.sort().values
            sample, lots = sample[kept], lots[kept]
        if not moments:
            raise StepMaskError("there are no images to take statistics of")
        return cls(moments["features"], moments.get("spatial"), sample, name_of(extractor), source)

    @property
    def num_images(self) -> int:
        """Of the whole set."""
        return self.features.count

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: moments in float32, the sample in float16."""
        tensors = {}
        for name, moments in (("features", self.features), ("spatial", self.spatial)):
            if moments is not None:
                tensors[f"{name}.mean"] = moments.mean.float()
                tensors[f"{name}.covariance"] = moments.covariance.float()
        if self.sample is not None:
            tensors["sample"] = self.sample.half()
        about = {"num_images": self.num_images, "extractor": self.extractor, "source": self.source}
        save_file(tensors, path, metadata={"statistics": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Read what `save` wrote, or the ``.npz`` of published reference statistics on Inception's features.

        Of an ``.npz``, ``mu`` and ``sigma`` are read, and ``mu_s`` and ``sigma_s`` where they are there (those of
        guided-diffusion); it holds no sample, so there will be no precision, recall or kernel distance.

        Raises:
            StepMaskError: There is no such file, or it holds something else.
        """
        path = Path(path)
        if not path.exists():
            raise StepMaskError(f"no statistics at {path}: make them with FeatureStatistics.of(images, extractor)")
        try:
            return _from_npz(path) if path.suffix == ".npz" else _from_safetensors(path)
        except StepMaskError:
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise StepMaskError(
                f"{path} holds no statistics of features ({type(error).__name__}): give a file of FeatureStatistics, "
                "or an .npz of guided-diffusion"
            ) from error


def _from_safetensors(path: Path) -> FeatureStatistics:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if "statistics" not in metadata or "features.mean" not in tensors:
        raise StepMaskError(f"{path} holds no statistics of features: make them with FeatureStatistics.of")
    about = json.loads(metadata["statistics"])
    moments = {
        name: Moments.from_covariance(about["num_images"], tensors[f"{name}.mean"], tensors[f"{name}.covariance"])
        for name in ("features", "spatial")
        if f"{name}.mean" in tensors
    }
    sample = tensors["sample"].float() if "sample" in tensors else None
    return FeatureStatistics(moments["features"], moments.get("spatial"), sample, about["extractor"], about["source"])


def _from_npz(path: Path) -> FeatureStatistics:
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in ("mu", "sigma", "mu_s", "sigma_s") if name in file.files}
    if not {"mu", "sigma"} <= set(found):
        raise StepMaskError(f"{path} holds no mu and sigma: it is no file of reference statistics")
    unknown = 50_000  # such files do not say; the distance does not depend on it, as sigma is stored

    def moments(mean: str, covariance: str) -> Moments:
        return Moments.from_covariance(unknown, torch.from_numpy(found[mean]), torch.from_numpy(found[covariance]))

    spatial = moments("mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= set(found) else None
    return FeatureStatistics(moments("mu", "sigma"), spatial, None, "inception", path.name)
