"""``geolip-lirpa supports``: what `verify` serves, in the words of the VNN-LIB 2.0 standard, chapter 5.

Place in the data flow: level 12, ``capability -> lines``. Imports nothing heavy; a test compares the operators with
what networks of them really do.
"""

from __future__ import annotations

from typing import Annotated

import typer

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.terminal import print_text
from geolip_lirpa.errors import SpecificationError

#: Operators that are served in general, with every version of auto_LiRPA. Not listed is what is served in part:
#: products and quotients by constants; what moves or selects numbers (Concat, Gather, Reshape, Slice, ...), where it
#: leaves the batch dimension alone; Clip, Elu, PRelu and others, with later versions.
OPERATORS = (
    "Abs", "Add", "Atan", "AveragePool", "BatchNormalization", "Constant", "ConstantOfShape", "Conv", "ConvTranspose",
    "Cos", "Expand", "Flatten", "Gemm", "GlobalAveragePool", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Neg", "Pad",
    "Relu", "Sigmoid", "Sin", "Softplus", "Sub", "Tanh",
)  # fmt: skip

#: Each capability with its lines. Theories say what queries may contain: no hidden nodes (NH), one input and one output
#: (SIO), one network (SNET), no comparison between inputs and outputs (SNC), inputs bounded by numbers and outputs
#: compared with numbers (BND) and with each other (OUTC). Verdicts hold in real arithmetic.
CAPABILITIES: dict[str, tuple[str, ...]] = {
    "onnx-opset-versions": ("7", "21"),
    "onnx-element-types": ("real",),
    "onnx-operators": OPERATORS,
    "vnnlib-versions": ("1.0", "2.0"),
    "hidden-node-theories": ("NH",),
    "multiple-input-output-theories": ("SIO",),
    "multiple-network-theories": ("SNET",),
    "multiple-node-comparison-theories": ("SNC",),
    "arithmetic-complexity-theories": ("BND", "OUTC"),
    "optimised-disjunctive-reasoning": ("false",),
    "serialise-assignments": ("true",),
}


def supports_command(
    capability: Annotated[
        str, typer.Argument(metavar="CAPABILITY", help=f"One of --{', --'.join(CAPABILITIES)}.", show_default=False)
    ],
) -> int:
    """Print what verify supports, as the VNN-LIB standard asks.

    Examples:

    geolip-lirpa supports --onnx-operators
    """
    lines = CAPABILITIES.get(capability.removeprefix("--"))
    if lines is None:
        raise SpecificationError(
            f"CAPABILITY: got {capability!r}; allowed are --{', --'.join(CAPABILITIES)}. Choose one of these; "
            "whether a network can be read, lipschitz and verify say."
        )
    print_text("\n".join(lines))
    return ExitCode.OK
