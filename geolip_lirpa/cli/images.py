"""Read images, the centres of regions, from an npz file.

Place in the data flow: level 12, ``npz file -> centres``. Values are taken as they are: bytes
are not scaled to [0, 1].
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.errors import SpecificationError

_FORMAT = "Write it with numpy.savez(path, images=images, labels=labels)."


@dataclass(frozen=True)
class Image:
    """One image of a data file.

    Args:
        values: (1, \\*sample) float64.
        label: None when the file has no labels.
    """

    values: Tensor
    label: int | None


def read_image(path: Path, index: int, sample_shape: Sequence[int]) -> Image:
    """The image of a given index.

    Args:
        path: npz file with ``images``, (count, \\*sample) or (count, n0), and optionally ``labels``, (count,).
        index: from 0 on.
        sample_shape: the model's input without the batch dimension.

    Raises:
        SpecificationError: unreadable file, missing key, wrong shape or type, index out of range, NaN or infinity.
    """
    require_file("--data", path)
    arrays = _arrays(path)
    if "images" not in arrays:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise SpecificationError(f"--data: {path} has no array 'images' (it holds {found}). {_FORMAT}")
    images = arrays["images"]
    _check_shape(path, images, tuple(sample_shape))
    if not 0 <= index < len(images):
        raise SpecificationError(
            f"--index: got {index}; {path} holds {len(images)} images, numbered from 0 on. Choose one of them."
        )
    values = np.asarray(images[index], dtype=np.float64)
    if not np.isfinite(values).all():
        raise SpecificationError(f"--data: image {index} of {path} holds NaN or infinity. Clean the data first.")
    return Image(torch.from_numpy(values.copy()).reshape(1, *sample_shape), _label(path, arrays, index, len(images)))


@dataclass(frozen=True)
class Images:
    """Images of a data file, selected by number.

    Args:
        values: (count, \\*sample), all images of the file.
        labels: (count,), None when the file has no labels.
        indices: the selected ones.
        sample_shape: the model's input without the batch dimension.
        sha256: of the images and labels that are selected.
    """

    values: NDArray[np.generic]
    labels: NDArray[np.generic] | None
    indices: tuple[int, ...]
    sample_shape: tuple[int, ...]
    sha256: str

    def center(self, index: int) -> Tensor:
        """One image, (\\*sample) float64.

        Raises:
            SpecificationError: NaN or infinity.
        """
        values = np.asarray(self.values[index], dtype=np.float64)
        if not np.isfinite(values).all():
            raise SpecificationError(f"DATA: image {index} holds NaN or infinity. Clean the data first.")
        return torch.from_numpy(values.copy()).reshape(self.sample_shape)

    def label(self, index: int) -> int | None:
        """Its label, None without labels."""
        return None if self.labels is None else int(self.labels.reshape(-1)[index])


def read_images(path: Path, ranges: Sequence[range] | None, sample_shape: Sequence[int]) -> Images:
    """Selected images.

    Args:
        path: as in `read_image`.
        ranges: numbers of images; all when None.
        sample_shape: the model's input without the batch dimension.

    Raises:
        SpecificationError: as in `read_image`.
    """
    arrays = _arrays(path, "DATA")
    if "images" not in arrays:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise SpecificationError(f"DATA: {path} has no array 'images' (it holds {found}). {_FORMAT}")
    values = arrays["images"]
    _check_shape(path, values, tuple(sample_shape), "DATA")
    indices = tuple(range(len(values)) if ranges is None else dict.fromkeys(i for part in ranges for i in part))
    if not indices or max(indices) >= len(values):
        raise SpecificationError(
            f"--images: got {max(indices, default=None)}; {path} holds {len(values)} images, numbered from 0 on."
        )
    if "labels" in arrays:
        _label(path, arrays, 0, len(values), "DATA")
    digest = hashlib.sha256(np.ascontiguousarray(values[list(indices)]).tobytes())
    if "labels" in arrays:
        digest.update(np.ascontiguousarray(arrays["labels"].reshape(-1)[list(indices)]).tobytes())
    return Images(values, arrays.get("labels"), indices, tuple(sample_shape), digest.hexdigest())


def _arrays(path: Path, option: str = "--data") -> dict[str, NDArray[np.generic]]:
    """The arrays ``images`` and ``labels``; other names with an empty array."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {n: archive[n] if n in ("images", "labels") else np.zeros(0) for n in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = _first_line(error)
        raise SpecificationError(f"{option}: {path} is not a readable npz file ({reason}). {_FORMAT}") from None
    raise SpecificationError(f"{option}: {path} is a single array, not an npz file. {_FORMAT}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _check_shape(path: Path, images: NDArray[np.generic], sample: tuple[int, ...], option: str = "--data") -> None:
    if images.dtype.kind not in "fiub":
        raise SpecificationError(
            f"{option}: 'images' of {path} has type {images.dtype}; expected real numbers. {_FORMAT}"
        )
    size = int(np.prod(sample))
    if images.ndim == 0 or images.shape[1:] not in (sample, (size,)):
        raise SpecificationError(
            f"{option}: 'images' of {path} has shape {images.shape}; the model takes inputs of shape {sample}. "
            f"Save it with shape (count, {', '.join(map(str, sample))}) or (count, {size})."
        )


def _label(
    path: Path, arrays: dict[str, NDArray[np.generic]], index: int, count: int, option: str = "--data"
) -> int | None:
    labels = arrays.get("labels")
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise SpecificationError(
            f"{option}: 'labels' of {path} has type {labels.dtype} and shape {labels.shape}; expected {count} "
            "integers, one for each image. Correct it, or leave 'labels' out."
        )
    return int(labels.reshape(-1)[index])
