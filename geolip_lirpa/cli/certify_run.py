"""Run ``geolip-lirpa certify`` and ``radius``: load, work image by image, print.

Place in the data flow: level 12, ``CertifyRequest -> CertificationOutcome -> table, CSV or JSON``. Imported when a
command runs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.cli.certify_request import LARGEST, CertifyRequest
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.images import Images, read_images
from geolip_lirpa.cli.journal import Journal
from geolip_lirpa.cli.models import load_model
from geolip_lirpa.cli.paths import made_folder, write_file
from geolip_lirpa.cli.processes import in_processes, process_count
from geolip_lirpa.cli.subjects import subject_metadata
from geolip_lirpa.cli.terminal import only_results_on_stdout, print_note, print_result, print_text, progress_bar
from geolip_lirpa.cli.threads import use_threads
from geolip_lirpa.cli.versions import versions
from geolip_lirpa.errors import SpecificationError, WorkerError
from geolip_lirpa.lirpa import extract_network, host_version
from geolip_lirpa.margin_certificate import MarginCertificate
from geolip_lirpa.margin_file import save_margins
from geolip_lirpa.margin_queries import target_rows
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_types import MarginOptions, MarginProblem
from geolip_lirpa.margin_work import NetworkMemory
from geolip_lirpa.margins import network_margins, require_served
from geolip_lirpa.network import Network
from geolip_lirpa.radius import InputRadius, RadiusOptions, network_radii
from geolip_lirpa.report.certification import (
    CertificationOutcome,
    ImageRecord,
    certification_csv,
    certification_object,
    certification_table,
    is_record,
)
from geolip_lirpa.report.json_objects import to_text
from geolip_lirpa.report.outcome import Subject


def run_certify(request: CertifyRequest) -> ExitCode:
    """Carry out a request.

    Raises:
        GeolipError: bad input, or something that is needed is missing.
    """
    begin = time.perf_counter()
    resumed = request.resume is not None and os.path.exists(request.resume)
    with only_results_on_stdout(request.debug):
        run = _Run(request)
        run.make_folder(resumed)
        if run.images.note is not None:
            print_note(run.images.note, request.quiet)
        outcome = run.outcome()
        outcome, failure = _with_plot(outcome, request.plot)
    outcome = replace(outcome, seconds=time.perf_counter() - begin)
    if request.format == "json":
        print_text(to_text(certification_object(outcome)))
    elif request.format == "csv":
        print_text(certification_csv(outcome))
    else:
        print_result(certification_table(outcome))
    if run.failure is not None:
        raise run.failure
    if failure is not None:
        raise failure
    return ExitCode.INTERRUPTED if outcome.interrupted else ExitCode.OK


def _with_plot(
    outcome: CertificationOutcome, path: Path | None
) -> tuple[CertificationOutcome, SpecificationError | None]:
    """Draw the radii; the error when the file cannot be written, since they are worth showing all the same."""
    if path is None:
        return outcome, None
    from geolip_lirpa.report.radius_plots import radius_picture

    try:
        write_file("--plot", path, radius_picture(outcome, path.suffix))
    except SpecificationError as error:
        return outcome, error
    return replace(outcome, plot=str(path)), None


class _Run:
    """One command: the model, the images, and what is kept of finished ones."""

    def __init__(self, request: CertifyRequest) -> None:
        self.request = request
        model = load_model(request.model, request.logits)
        self.subject = Subject(str(request.model), model.sha256, request.logits, request.final_node)
        self.network = extract_network(model.bounded, request.final_node)
        if self.network.output_size < 2:
            raise SpecificationError(
                f"MODEL: {request.model} has one output; margins need two classes at least. Name a classifier."
            )
        require_served(self.network, request.method)
        self.images = read_images(request.data, request.images, model.input_shape)
        # before hours of work end at a late image
        _require_fitting(self.images, request, self.network.output_size)
        self.identity = self._identity(model.sha256)
        self.journal = Journal(request.resume, self.identity)
        self.records = {i: _restored(request.resume, i, r) for i, r in self.journal.finished.items()}
        self.memory = NetworkMemory()
        self.failure: WorkerError | None = None
        # of the image at work, for when it is interrupted
        self.unfinished: tuple[ImageRecord, InputRadius] | None = None
        self.versions = versions(host_version())

    def make_folder(self, resumed: bool) -> None:
        """Make the folder of certificates; refuse one with files that a new run would overwrite.

        Raises:
            SpecificationError: names the folder or the first file.
        """
        if self.request.certificates is None:
            return
        folder = made_folder("--certificates", self.request.certificates)
        for path in () if resumed else (_certificate_path(folder, index) for index in self.images.indices):
            if path.exists():
                raise SpecificationError(
                    f"--certificates: {path} is there already, from another run. Name another folder, or remove it."
                )

    def outcome(self) -> CertificationOutcome:
        """Work on all images that are not finished."""
        interrupted, numbers = False, self.images.indices
        missing = [index for index in numbers if index not in self.records]
        try:
            with (
                progress_bar("images", shown=not self.request.quiet) as progress,
                contextlib.closing(self._finished(missing)) as finished,
            ):
                if progress is not None:
                    progress(len(self.records), len(numbers))
                for record in finished:
                    self.records[record.index], self.unfinished = record, None
                    self.journal.add(record.index, asdict(record))
                    if progress is not None:
                        progress(len(self.records), len(numbers))
        except KeyboardInterrupt:
            interrupted = True
            if self.unfinished is not None:
                # worth showing, but not finished: the file for --resume does not have it
                self.records[self.unfinished[0].index] = self._with_radius(*self.unfinished)
        except WorkerError as error:
            self.failure = error
        return CertificationOutcome(
            subject=self.subject,
            question=self.request.question(),
            images=tuple(self.records[i] for i in numbers if i in self.records),
            quantity="margin" if self.request.eps is not None else "radius",
            versions=self.versions,
            seconds=0.0,
            interrupted=interrupted or self.failure is not None,
        )

    def _finished(self, numbers: Sequence[int]) -> Generator[ImageRecord]:
        """Records of images, as they are finished."""
        jobs = process_count(self.request.jobs, len(numbers))
        if jobs == 1:
            yield from map(self.image, numbers)
            return
        task = functools.partial(_image_elsewhere, self.request, json.dumps(self.identity, sort_keys=True))
        for _, record in in_processes(task, numbers, jobs, self.request.threads):
            yield record

    def _identity(self, sha256: str) -> dict[str, Any]:
        """What a file of an earlier run has to agree with."""
        request = self.request
        return {
            **request.question(),
            "command": "radius" if request.eps is None else "certify",
            "model": sha256,
            "logits": request.logits,
            "final_node": request.final_node,
            "images": self.images.sha256,
            "certificates": None if request.certificates is None else str(request.certificates),
        }

    def image(self, index: int) -> ImageRecord:
        """Work on one image."""
        begin = time.perf_counter()
        center, label = self.images.center(index), self.images.label(index)
        scores = self.network.forward(center[None]).reshape(-1)
        predicted = int(scores.argmax())
        label = predicted if label is None else label
        record = ImageRecord(index, label, predicted, "wrong", None, None, "", 0.0)
        if predicted == label:
            targets = self.request.targets
            others = None if targets is None else _other_targets(self.request, index, label)
            rows = target_rows(label, self.network.output_size, others)
            record = self._prove(record, center, rows)
        return replace(record, seconds=time.perf_counter() - begin)

    def _prove(self, record: ImageRecord, center: Tensor, rows: Tensor) -> ImageRecord:
        request = self.request
        low, high = (None, None) if request.clip is None else torch.tensor(request.clip, dtype=torch.float64).unbind()
        margin_set = MarginSet(center, request.eps or 0.0, request.norm, low, high)
        options = MarginOptions(request.method, request.bounds, whole=True, seed=request.seed, solver=request.solver)
        if request.eps is None:
            return self._radius(record, self.network, margin_set, rows, options)
        offsets = torch.zeros((1, len(rows)), dtype=torch.float64)
        problem = MarginProblem(self.network, (margin_set,), rows[None], offsets)
        end = time.monotonic() + request.timeout
        result = network_margins(problem, options, memory=self.memory, over=lambda: time.monotonic() > end)
        lower, attacked = float(result.lower.min()), float(result.attacked.min())
        status = "proven" if lower > 0 else "attacked" if attacked <= 0 else "open"
        methods = "+".join(sorted({row.method for row in result.rows if row.method}))
        path = self._written(record.index, result.certificate) if status == "proven" else None
        return replace(
            record, status=status, lower=lower if math.isfinite(lower) else None,
            attacked=attacked if math.isfinite(attacked) else None, method=methods, certificate=path,
        )  # fmt: skip

    def _radius(
        self, record: ImageRecord, network: Network, margin_set: MarginSet, rows: Tensor, options: MarginOptions
    ) -> ImageRecord:
        radii = RadiusOptions(options, self.request.gap, timeout=self.request.timeout)

        def keep(better: InputRadius) -> None:
            self.unfinished = record, better

        found = network_radii(network, [margin_set], [rows], radii, memory=self.memory, better=keep).inputs[0]
        return self._with_radius(record, found)

    def _with_radius(self, record: ImageRecord, found: InputRadius) -> ImageRecord:
        claims = () if found.certificate is None else found.certificate.claims
        path = None if found.certificate is None else self._written(record.index, found.certificate)
        return replace(
            record, status="proven" if found.lower > 0 else "open", lower=found.lower or None,
            attacked=found.upper if math.isfinite(found.upper) else None,
            method="+".join(sorted({c.method for c in claims})), certificate=path, seconds=found.seconds,
        )  # fmt: skip

    def _written(self, index: int, certificate: MarginCertificate) -> str | None:
        if self.request.certificates is None:
            return None
        path = _certificate_path(self.request.certificates, index)
        metadata = subject_metadata(self.subject) | {"versions": dict(self.versions), "image": index}
        save_margins(replace(certificate, metadata=metadata), path)
        return str(path)


def _certificate_path(folder: Path, index: int) -> Path:
    return folder / f"image-{index:05d}.json"


def _image_elsewhere(request: CertifyRequest, identity: str, index: int) -> ImageRecord:
    """The record of an image, in a process that keeps the model for those that follow."""
    with only_results_on_stdout(request.debug):
        return _run_elsewhere(request, identity).image(index)


@functools.lru_cache(maxsize=1)
def _run_elsewhere(request: CertifyRequest, identity: str) -> _Run:
    """The run of another process, over again.

    Raises:
        SpecificationError: a file has changed since.
    """
    use_threads(request.threads)
    run = _Run(replace(request, resume=None))
    if json.dumps(run.identity, sort_keys=True) != identity:
        raise SpecificationError(
            f"MODEL, DATA: {request.model} or {request.data} has changed since the command began. Repeat it."
        )
    return run


def _require_fitting(images: Images, request: CertifyRequest, classes: int) -> None:
    """Labels, targets and the domain fit the model and every image.

    Raises:
        SpecificationError: names the first one that does not.
    """
    largest = max((part[-1] for part in request.targets or ()), default=0)
    if largest >= classes:
        raise SpecificationError(
            f"--targets: got {largest}; the model has classes 0 to {classes - 1}. Choose among these."
        )
    for index in images.indices:
        label = images.label(index)
        if label is not None and not 0 <= label < classes:
            raise SpecificationError(
                f"DATA: image {index} of {request.data} has the label {label}; the model has classes 0 to "
                f"{classes - 1}. Correct it, or leave the labels out."
            )
        if label is not None and request.targets is not None:
            _other_targets(request, index, label)
        _require_inside(request.clip, index, images.center(index))


def _require_inside(clip: tuple[float, float] | None, index: int, center: Tensor) -> None:
    low, high = float(center.min()), float(center.max())
    if max(-low, high) > LARGEST:
        raise SpecificationError(
            f"DATA: image {index} has values from {low!r} to {high!r}; allowed are numbers up to {LARGEST} in size. "
            "Scale the images."
        )
    if clip is not None and (low < clip[0] or high > clip[1]):
        raise SpecificationError(
            f"--clip: got {clip[0]!r},{clip[1]!r}; image {index} has values from {low!r} to {high!r}, which have to "
            "lie inside. Widen the interval, or scale the images."
        )


def _other_targets(request: CertifyRequest, index: int, label: int) -> list[int]:
    """The targets that are not an image's own class.

    Raises:
        SpecificationError: none is left.
    """
    others = [k for k in request.classes() if k != label]
    if not others:
        raise SpecificationError(
            f"--targets: got {label} alone, the class of image {index} itself; one other class at least is needed. "
            "Name another target, or leave the image out by --images."
        )
    return others


def _restored(path: Path | None, index: int, fields: Mapping[str, Any]) -> ImageRecord:
    """The record of an image that an earlier run finished.

    Raises:
        SpecificationError: it is none.
    """
    if not is_record(fields) or fields["index"] != index:
        raise SpecificationError(
            f"--resume: {path}: the line of image {index} is damaged. Remove that line, and the image is done again."
        )
    return ImageRecord(**fields)
