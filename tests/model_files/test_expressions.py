"""Sizes of a program as expressions: what is evaluated, and what is not."""

import pytest

from vibfx.errors import ModelFileError
from vibfx.model_files.expressions import check_expression

S0 = "Symbol('s0', positive=True, integer=True)"


@pytest.mark.parametrize(
    "text",
    [
        S0,
        "2*s0 + 3 - s1//4 % u12",
        f"Mul(Integer(453888), {S0})",
        f"Add(Pow({S0}, Integer(2)), Integer(-1))",
        f"Min(Integer(768), Mul(Integer(768), {S0}))",
        f"FloorDiv(Add({S0}, Integer(1)), Integer(2))",
        f"StrictLessThan({S0}, Integer(4))",
        "s0**2",
        "Float('0.5', precision=53)",
        "true",
        "7",
    ],
)
def test_arithmetic(text: str) -> None:
    check_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "exec('import os')",
        "s0.__class__",
        "[s0][0]",
        "(lambda: s0)()",
        "s0 if s0 else s1",
        "'text'",
        "Symbol('__import__')",
        "Symbol(Symbol('s0'))",
        "Integer('7')",
        "Function('f')(s0)",
        "Lambda(s0, s0)",
        "Float('1e9999999', precision=53)",
        "Float('0.5', precision=10**9)",
        "9**9**9",
        "Pow(Pow(s0, 8), 8)",
        "Pow(2, 1000000000)",
        "Pow(2, s0)",
        "factorial(9999999)",
        "s0!",
        "s12345678",
        str(2**70),
        "+".join(["s0"] * 1000),
        "(" * 300 + "s0" + ")" * 300,
        "s0 +",
        "",
        "s0\n__import__('os')",
        "ﬀ0",
    ],
    ids=lambda text: text[:30],
)
def test_anything_else(text: str) -> None:
    with pytest.raises(ModelFileError, match="a size in it is no arithmetic"):
        check_expression(text)
