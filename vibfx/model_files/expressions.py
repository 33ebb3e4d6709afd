"""Sizes that a program writes as expressions: whether one is arithmetic and nothing else.

``torch.export.load`` hands them to sympy, which evaluates them as Python.
"""

import ast
import re

from vibfx.model_files.refusals import damaged

# What sympy's ``srepr`` writes for a size, and torch's own functions of sizes.
_FUNCTIONS = frozenset(
    {"Add", "Mul", "Pow", "Mod", "Min", "Max", "Abs", "Not", "And", "Or", "Equality", "Unequality"}
    | {"GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "FloorDiv", "CeilDiv"}
    | {"ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt"}
    | {"PowByNatural", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt"}
    | {"ToFloat", "Identity"}
)
_NUMBERS = ("Integer", "Rational")
_POWERS = ("Pow", "PowByNatural")
_SYMBOL = re.compile(r"(s|u|ps|zf|zuf)\d{1,6}")
_FLOAT = re.compile(r"-?\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?")
_LONGEST = 2000
_LARGEST = 2**63


def check_expression(text: str) -> None:
    """Checks an expression before it is evaluated.

    Args:
        text: Such as ``"Mul(Integer(2), Symbol('s0', integer=True))"``, or ``"2*s0"``.

    Raises:
        ModelFileError: It is more than arithmetic on sizes, or too long to be worked out.
    """
    try:
        tree = ast.parse(text, mode="eval").body if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if tree is None or not _is_arithmetic(tree):
        raise damaged(f"a size in it is no arithmetic ({text[:60]!r})", "torch.export.save")


def _is_arithmetic(tree: ast.expr, *, in_power: bool = False) -> bool:
    match tree:
        case ast.Constant(value):
            return type(value) in (int, bool) and abs(value) < _LARGEST  # type: ignore[arg-type]
        case ast.Name(name):
            return _SYMBOL.fullmatch(name) is not None or name in ("true", "false")
        case ast.UnaryOp(ast.USub(), operand):
            return _is_arithmetic(operand, in_power=in_power)
        case ast.BinOp(left, ast.Pow(), right):
            return _is_power([left, right], in_power=in_power)
        case ast.BinOp(
            left, ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod(), right
        ):
            return all(_is_arithmetic(side, in_power=in_power) for side in (left, right))
        case ast.Call(ast.Name("Symbol"), [ast.Constant(str(name))], assumptions):
            return _SYMBOL.fullmatch(name) is not None and all(map(_is_assumption, assumptions))
        case ast.Call(
            ast.Name("Float"), [ast.Constant(str(number))], [ast.keyword("precision", _)]
        ):
            return _FLOAT.fullmatch(number) is not None and _is_precision(tree)
        case ast.Call(ast.Name(name), numbers, []) if name in _NUMBERS:
            return all(isinstance(n, ast.Constant | ast.UnaryOp) for n in numbers) and all(
                _is_arithmetic(number) for number in numbers
            )
        case ast.Call(ast.Name(name), operands, []) if name in _POWERS:
            return _is_power(operands, in_power=in_power)
        case ast.Call(ast.Name(name), operands, []) if name in _FUNCTIONS:
            return all(_is_arithmetic(operand, in_power=in_power) for operand in operands)
    return False


def _is_power(operands: list[ast.expr], *, in_power: bool) -> bool:
    # Powers of powers of numbers would take forever.
    match operands:
        case [base, ast.Constant(int(exponent)) | ast.Call(_, [ast.Constant(int(exponent))])]:
            return not in_power and 0 <= exponent <= 8 and _is_arithmetic(base, in_power=True)
    return False


def _is_assumption(keyword: ast.keyword) -> bool:
    is_word = keyword.arg is not None and keyword.arg.isidentifier()
    return is_word and isinstance(keyword.value, ast.Constant) and type(keyword.value.value) is bool


def _is_precision(call: ast.Call) -> bool:
    (keyword,) = call.keywords
    value = keyword.value
    return isinstance(value, ast.Constant) and type(value.value) is int and value.value <= 64
