"""Read images, the centres of regions, from an npz file.

Place in the data flow: level 12, ``npz file -> centres``. Values are taken as they are: bytes
are not scaled to [0, 1].
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.errors import SpecificationError

_FORMAT = "Write it with numpy.savez(path, images=images, labels=labels)."
# Names under which data sets keep the two arrays.
_IMAGES, _LABELS = ("images", "X", "x"), ("labels", "Y", "y")


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
        path: npz file with ``images`` (or ``X``, ``x``), (count, \\*sample) or (count, n0), and optionally ``labels``
            (or ``Y``, ``y``), (count,).
        index: from 0 on.
        sample_shape: the model's input without the batch dimension.

    Raises:
        SpecificationError: unreadable file, missing key, wrong shape or type, index out of range, NaN or infinity.
    """
    values, labels = _read("--data", path, tuple(sample_shape))
    if not 0 <= index < len(values):
        raise SpecificationError(
            f"--index: got {index}; {path} holds {len(values)} images, numbered from 0 on. Choose one of them."
        )
    image = np.asarray(values[index], dtype=np.float64)
    _check_finite("--data", path, image, index)
    label = None if labels is None else int(labels[index])
    return Image(torch.from_numpy(image.copy()).reshape(1, *sample_shape), label)


@dataclass(frozen=True)
class Images:
    """Images of a data file, selected by number.

    Args:
        values: (count, \\*sample), all images of the file; the selected ones are finite.
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

    @property
    def note(self) -> str | None:
        """What may be wrong with integers, which most networks do not take; None for other numbers."""
        if self.values.dtype.kind not in "iu":
            return None
        largest = int(self.values[list(self.indices)].max())
        return (
            f"the images are integers up to {largest}, taken as they are, and the radius is in the same unit; divide "
            "them by 255 first if the network expects numbers from 0 to 1"
        )

    def center(self, index: int) -> Tensor:
        """One image, (\\*sample) float64."""
        values = np.asarray(self.values[index], dtype=np.float64)
        return torch.from_numpy(values.copy()).reshape(self.sample_shape)

    def label(self, index: int) -> int | None:
        """Its label, None without labels."""
        return None if self.labels is None else int(self.labels[index])


def read_images(path: Path, ranges: Sequence[range] | None, sample_shape: Sequence[int]) -> Images:
    """Selected images.

    Args:
        path: as in `read_image`.
        ranges: numbers of images; all when None.
        sample_shape: the model's input without the batch dimension.

    Raises:
        SpecificationError: as in `read_image`.
    """
    values, labels = _read("DATA", path, tuple(sample_shape))
    if len(values) == 0:
        raise SpecificationError(f"DATA: {path} holds 0 images. Name a file with at least one.")
    chosen = (range(len(values)),) if ranges is None else ranges
    largest = max(part[-1] for part in chosen)
    if largest >= len(values):
        raise SpecificationError(
            f"--images: got {largest}; {path} holds {len(values)} images, numbered 0 to {len(values) - 1}. "
            "Choose among these."
        )
    indices = list(dict.fromkeys(i for part in chosen for i in part))
    for index in indices:
        _check_finite("DATA", path, np.asarray(values[index], dtype=np.float64), index)
    digest = hashlib.sha256(np.ascontiguousarray(values[indices]).tobytes())
    if labels is not None:
        digest.update(np.ascontiguousarray(labels[indices]).tobytes())
    return Images(values, labels, tuple(indices), tuple(sample_shape), digest.hexdigest())


def _read(option: str, path: Path, sample: tuple[int, ...]) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Images, (count, ..), and labels, (count,), of a file, with shapes and types checked."""
    require_file(option, path)
    arrays = _arrays(option, path)
    name = _only(option, path, arrays, _IMAGES)
    if name is None:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise SpecificationError(
            f"{option}: {path} has no array 'images' (it holds {found}); allowed names are {_names(_IMAGES)}, and "
            f"{_names(_LABELS)} for labels. {_FORMAT}"
        )
    images = arrays[name]
    _check_shape(option, path, name, images, sample)
    label_name = _only(option, path, arrays, _LABELS)
    if label_name is None:
        return images, None
    return images, _labels(option, path, label_name, arrays[label_name], len(images))


def _only(option: str, path: Path, arrays: Mapping[str, object], names: Sequence[str]) -> str | None:
    """The one of some names that a file has; None when it has none."""
    found = [name for name in names if name in arrays]
    if len(found) > 1:
        raise SpecificationError(
            f"{option}: {path} holds {' and '.join(map(repr, found))}, which mean the same; allowed is one of them. "
            f"{_FORMAT}"
        )
    return found[0] if found else None


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"


def _arrays(option: str, path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of images and labels; other names with an empty array."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                wanted = (*_IMAGES, *_LABELS)
                return {name: archive[name] if name in wanted else np.zeros(0) for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = _first_line(error)
        raise SpecificationError(f"{option}: {path} is not a readable npz file ({reason}). {_FORMAT}") from None
    raise SpecificationError(f"{option}: {path} is a single array, not an npz file. {_FORMAT}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _check_finite(option: str, path: Path, image: NDArray[np.float64], index: int) -> None:
    if not np.isfinite(image).all():
        raise SpecificationError(f"{option}: image {index} of {path} holds NaN or infinity. Clean the data first.")


def _check_shape(option: str, path: Path, name: str, images: NDArray[np.generic], sample: tuple[int, ...]) -> None:
    if images.dtype.kind not in "fiub":
        raise SpecificationError(
            f"{option}: {name!r} of {path} has type {images.dtype}; expected real numbers. {_FORMAT}"
        )
    size = int(np.prod(sample))
    if images.ndim == 0 or images.shape[1:] not in (sample, (size,)):
        raise SpecificationError(
            f"{option}: {name!r} of {path} has shape {images.shape}; the model takes inputs of shape {sample}. "
            f"Save it with shape (count, {', '.join(map(str, sample))}) or (count, {size})."
        )


def _labels(option: str, path: Path, name: str, labels: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """Labels as (count,)."""
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise SpecificationError(
            f"{option}: {name!r} of {path} has type {labels.dtype} and shape {labels.shape}; expected {count} "
            f"integers, one for each image. Correct it, or leave {name!r} out."
        )
    return labels.reshape(-1)
