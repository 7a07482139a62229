"""Malformed and mutated VNN-LIB texts: an error with file, line, what was found and what is allowed; nothing else."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.errors import VnnlibError
from geolip_lirpa.vnnlib import read_specification
from tests.vnnlib_texts import header, read_text, unit_box

ONE = header(2, 2) + unit_box(2)  # six lines
TWO = header(2, 2, "2.0") + "(assert (and (<= -1 X[0]) (<= X[0] 1) (<= -1 X[1]) (<= X[1] 1)))\n"  # five lines
DECLARED = "(vnnlib-version <2.0>)\n(declare-network net\n"
INPUT, OUTPUT, ASSERTED = "(declare-input X Real [1])\n", "(declare-output Y Real [1])\n", ")\n(assert (<= Y[0] 1.0))"
HIDDEN = '(declare-hidden H Real [1] "h")\n'
OTHER = "(declare-network other (isomorphic-to net)\n(declare-input A Real [1])\n(declare-output B Real [1]))\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: got 0 variables X_i, without X_0"),
        ("; nothing\n", "1: got 0 variables X_i"),
        ("(declare-const X_0 Real)\n(assert (<= 0 X_0))", "1: got 0 variables Y_i, without Y_0"),
        ("(declare-const X_0 Real)\n(declare-const X_2 Real)", "2: got 2 variables X_i, without X_1"),
        ("(declare-const X_0 Int)", "1: got (declare-const X_0 Int)"),
        ("(declare-const Z_0 Real)", "1: got (declare-const Z_0 Real)"),
        ("(declare-const X_00 Real)", "1: got (declare-const X_00 Real)"),
        ("(declare-const (X_0) Real)", "1: got (declare-const (X_0) Real)"),
        ("(declare-const)", "1: got (declare-const)"),
        ("(declare-fun X_0 () Real)", "1: got (declare-fun X_0 () Real); allowed are (declare-const NAME Real)"),
        (ONE + "(declare-const X_0 Real)", "7: got X_0 twice"),
        (ONE + "(assert (<= X_2 1))", "7: got 'X_2', which is not declared"),
        (ONE + "(assert (<= x_0 1))", "7: got 'x_0', which is not declared"),
        (ONE + "(assert\n (or\n (<= Y_0 1)\n (<= Y_5 1)))", "10: got 'Y_5'"),
        (ONE + "(assert (<= X_0 X_1))", "7: got a comparison of 2 inputs"),
        (ONE + "(assert (<= X_0 Y_0))", "7: got a comparison of inputs with outputs"),
        (ONE + "(assert (<= (* Y_0 Y_1) 1))", "7: got a product of variables"),
        (ONE + "(assert (<= 1 2 3))", "7: got (<= 1 2 3); allowed are comparisons of two"),
        (ONE + "(assert (<= 1))", "7: got (<= 1)"),
        (ONE + "(assert)", "7: got (assert)"),
        (ONE + "(assert Y_0)", "7: got Y_0"),
        (ONE + "(assert (not (<= Y_0 1)))", "7: got (not (<= Y_0 1))"),
        (ONE + "(assert (<= Y_0 (/ 1 3)))", "7: got (/ 1 3)"),
        (ONE + "(assert (<= Y_0 (+)))", "7: got (+)"),
        (ONE + "(assert (<= Y_0 1.2.3))", "7: got '1.2.3'"),
        (ONE + "(assert (<= Y_0 nan))", "7: got 'nan'"),
        (ONE + "(assert (<= Y_0 1e99999999999))", "7: got '1e99999999999'; allowed are exponents"),
        (ONE + f"(assert (<= Y_0 {'1' * 5000}))", "7: got '1111"),
        (ONE + f"(assert (<= Y_0 (* {'1e900 ' * 20})))", "7: got a constant of more than 20000 bits"),
        (ONE + "(assert (<= X_0 1e400))", "7: got an end of an input beyond the doubles"),
        (ONE + "(assert (<= Y_0 1)", "7: got '(' that is never closed"),
        (ONE + "(assert (<= Y_0 1)))", "7: got ')' that closes nothing"),
        (ONE + "assert", "7: got 'assert'"),
        (ONE + "(push 1)", "7: got (push 1)"),
        (ONE + "(assert " + "(and " * 200 + ")" * 201, "7: got more than 100 nested parentheses"),
        (header(2, 1) + "(assert (<= 0 X_0))(assert (<= X_0 1))(assert (<= X_1 1))", "2: input X_1 has no lower end"),
        (header(1, 1) + "(assert (or (>= X_0 0) (<= X_0 1)))", "1: input X_0 has no upper end"),
        (header(1, 1) + "(assert (>= X_0 1))\n(assert (<= X_0 0))", "4: input X_0 has no value between its ends"),
    ],
)  # fmt: skip
def test_version_one(text: str, message: str) -> None:
    with pytest.raises(VnnlibError) as caught:
        read_text(text)
    shown = str(caught.value)
    assert shown.startswith(f"spec.vnnlib:{message}")
    assert "; allowed" in shown or "allowed are" in shown
    assert shown.endswith(".")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(vnnlib-version <2.0>)", "1: got the end of the file"),
        ("(vnnlib-version <1.0>)", "1: got version <1.0>"),
        ("(declare-network net)", "1: got '(declare-network'"),
        (TWO + "(assert (<= Z[0] 1.0))", "6: got Z: Undeclared variable"),
        (TWO + "(assert (<= X[2] 1.0))", "6: got X[2]: Index out of bounds"),
        (TWO + "(assert (<= Y[0,0] 1.0))", "6: got Y[0,0]: Too many indices"),
        (TWO + "(assert (<= X[99999999999] 1.0))", "6: got '[99999999999]'"),
        (TWO + "(assert (<= X[0] X[1]))", "6: got a comparison of 2 inputs"),
        (TWO + "(assert\n(or (<= Y[0] 1)\n(<= (* Y[0] Y[1]) 1)))", "8: got a product of variables"),
        (TWO + "(assert (<= Y[0] 1.0)", "6: got the end of the file"),
        (TWO + "(assert (<= Y[0] 1.0))\n)", "7: got ')'"),
        (TWO + "(assert (<= Y[0] 1e-320))", "6: got 1e-320; allowed are 0 and magnitudes"),
        (TWO + "(assert (<= Y[0] 1e2000))", "6: got '1e2000'; allowed are exponents"),
        (TWO + "(assert (<= Y[0] \x00))", "6: got '\\x00'"),
        (TWO + "(assert (= Y[0] 1.0))", "6: got '='; allowed are the symbols of VNN-LIB 2.0. Write =="),
        (TWO + "(assert " + "(and " * 200_000, "6: got more than 100 nested parentheses"),
        (TWO + "(declare-const X_0 Real)", "6: got declare-const; allowed are"),
        (DECLARED + INPUT.replace("Real", "int8") + OUTPUT + ASSERTED, "3: X has elements of type int8"),
        (DECLARED + INPUT.replace("1", "0") + OUTPUT + ASSERTED, "3: got the shape [0]"),
        (DECLARED + INPUT + OUTPUT.replace("1", "99999,99999") + ASSERTED.replace("0]", "0,0]"), "4: Y has the shape"),
        (DECLARED + INPUT + INPUT.replace("X", "Z") + OUTPUT + ASSERTED, "3: got 2 inputs (X, Z)"),
        (DECLARED + INPUT + OUTPUT + OUTPUT.replace("Y", "Z") + ASSERTED, "4: got 2 outputs (Y, Z)"),
        (DECLARED + INPUT + HIDDEN + OUTPUT + ASSERTED, "4: got the hidden node H"),
        (DECLARED + INPUT + OUTPUT + ")" + OTHER + ASSERTED[1:], "2: got 2 networks (net, other)"),
        (DECLARED + INPUT.replace("1", "99999999") + OUTPUT + ASSERTED, "3: input X[0] has no lower end"),
        (
            DECLARED + INPUT.replace("1", "2,3") + OUTPUT + ")(assert (and (<= 0 X[0,0]) (<= X[0,0] 1)))",
            "3: input X[0,1] has no lower end",
        ),
    ],
)  # fmt: skip
def test_version_two(text: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VnnlibError) as caught:
        read_text(text)
    shown = str(caught.value)
    assert shown.startswith(f"spec.vnnlib:{message}")
    assert "allowed" in shown or "Expected" in shown or "out of bounds" in shown or "must be declared" in shown
    assert capfd.readouterr() == ("", "")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(VnnlibError, match=r"missing\.vnnlib: cannot be read: No such file"):
        read_specification(tmp_path / "missing.vnnlib")
    with pytest.raises(VnnlibError, match="cannot be read: Is a directory"):
        read_specification(tmp_path)
    with pytest.raises(VnnlibError, match="cannot be read"):
        read_specification("a\0b")
    binary = tmp_path / "binary.vnnlib"
    binary.write_bytes(b"(assert\n\xff\xfe")
    with pytest.raises(VnnlibError, match=r"binary\.vnnlib:2: got the byte 0xff"):
        read_specification(binary)
    packed = tmp_path / "packed.vnnlib"
    packed.write_bytes(gzip.compress(ONE.encode()))
    assert read_specification(packed).inputs == 2
    packed.write_bytes(gzip.compress(ONE.encode())[:-12])
    with pytest.raises(VnnlibError, match=r"packed\.vnnlib:1: broken gzip data"):
        read_specification(packed)


def test_malformed_reference_files(reference_data: Path) -> None:
    files = sorted(reference_data.joinpath("vnncomp", "_malformed_ACC").glob("vnnlib*/*.vnnlib"))
    assert len(files) == 10
    for file in files:
        with pytest.raises(VnnlibError) as caught:
            read_specification(file)
        assert str(caught.value).startswith(f"{file}:1: " if file.parent.name == "vnnlib" else f"{file}:3: ")


SAMPLES = [
    ONE + "(assert (or (and (<= Y_0 (* 2.5e-1 Y_1)) (>= Y_0 -1)) (< Y_1 3)))\n; end\n",
    TWO + '(assert (or (and (<= Y[0] (* 0.25 Y[1])) (>= Y[0] -1.0)) (< Y[1] 3.0)))\n; end "\n',
]
PIECES = [
    *"()[]<-.;|\n\\\x00é0\ufeff\r\"", "=", "!=", "e9", "9" * 30, "1e-999", "nan", "(and", "(or", "(assert",
    "(* X_0 X_1)", "X[0]", "Y_0", "Y_7", "Real", "declare-input", "<2.0>", "(" * 150,
]  # fmt: skip


@settings(max_examples=500)
@given(st.data())
def test_mutated_texts_give_a_specification_or_an_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SAMPLES))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 8))
        text = text[:start] + data.draw(st.sampled_from(["", *PIECES])) + text[end:]
    _survives(text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(["", DECLARED, ONE, TWO]))
def test_random_texts_give_a_specification_or_an_error(parts: list[str], start: str) -> None:
    _survives(start + " ".join(parts))


def _survives(text: str) -> None:
    begin = time.perf_counter()
    try:
        read_text(text)
    except VnnlibError as error:
        assert str(error).startswith("spec.vnnlib:")
    assert time.perf_counter() - begin < 10


def test_every_truncation_gives_a_specification_or_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    for sample in SAMPLES:
        for end in range(len(sample)):
            _survives(sample[:end])
    assert capfd.readouterr() == ("", "")


HUNGRY = {
    "products": "".join(f"(assert (or (<= Y_0 {i}) (<= Y_1 {i})))" for i in range(17)),
    "more products": "".join(f"(assert (or (<= Y_0 {i}) (<= Y_1 {i})))" for i in range(400)),
    "boxes": "".join(f"(assert (or (<= X_0 0.{i}) (>= X_1 -0.{i})))" for i in range(1, 16)),
    "long constant": f"(assert (<= Y_0 (* {'1e1000 ' * 100_000})))",
    "long sum": f"(assert (<= Y_0 (+ {'1e-1000 1e1000 ' * 20_000})))",
    "many parts": f"(assert (or {'(<= Y_0 1) ' * 50_000}))",
}


def test_small_texts_take_little_time_and_memory() -> None:
    """One after another in a process of its own, whose peak of memory is that of the worst text."""
    program = (
        "import ast, resource, sys\nresource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "from tests.vnnlib_texts import read_text\nfrom geolip_lirpa.errors import VnnlibError\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = peak()\n"
        "for name, text in ast.literal_eval(sys.stdin.read()).items():\n"
        "    try: read_text(text)\n    except VnnlibError: pass\n"
        "    if peak() - start > 600_000: sys.exit(name)"
    )
    texts = repr({name: ONE + body for name, body in HUNGRY.items()})
    done = subprocess.run([sys.executable, "-c", program], input=texts, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
