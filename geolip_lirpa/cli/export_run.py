"""Run ``geolip-lirpa export``: load, state the program, write it.

Place in the data flow: level 12. Imported when the command runs.
"""

from __future__ import annotations

import torch

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.export_request import ExportRequest
from geolip_lirpa.cli.models import load_model
from geolip_lirpa.cli.terminal import only_results_on_stdout, print_note
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.export import SparseSdp, export_instance
from geolip_lirpa.lirpa import extract_network
from geolip_lirpa.network import Network
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.slopes import global_slopes


def run_export(request: ExportRequest) -> ExitCode:
    """Write the program of one output.

    Raises:
        GeolipError: bad input, or a package that the format needs is missing.
    """
    with only_results_on_stdout(request.debug):
        model = load_model(request.model, request.logits)
        network = extract_network(model.bounded, request.final_node)
        written = export_instance(_instance(network, request), request.out, request.file_format, request.form)
    print_note(_summary(request, written), request.quiet)
    return ExitCode.OK


def _instance(network: Network, request: ExportRequest) -> SdpInstance:
    if not 0 <= request.row < network.output_size:
        raise SpecificationError(
            f"--row: got {request.row}; the network has {network.output_size} outputs, numbered 0 to "
            f"{network.output_size - 1}. Choose one of these."
        )
    return SdpInstance(
        network,
        global_slopes(network),
        request.norm,
        torch.ones(network.input_size, dtype=torch.float64),
        torch.eye(network.output_size, dtype=torch.float64)[request.row : request.row + 1],
        tie_input="input" in request.tie,
        tie_layers="layer" in request.tie,
    )


def _summary(request: ExportRequest, written: SparseSdp) -> str:
    return (
        f"{request.out}: {written.form.value} form, {len(written.rhs)} multipliers, a matrix of {written.size} rows; "
        f"its value bounds output {request.row}, norm {request.norm.value}"
    )
