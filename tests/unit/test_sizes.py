"""Files and functions stay small; each offender is named with its size.

Limits are where work stops being readable, not goals. Tables that are data may ask for an
exception; there is none so far. The measures are tried on sources whose sizes are counted by hand.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 8
MAX_INIT_LINES = 15
MAX_NESTING = 4

PRODUCT = [p for d in ("megatron_longrlvr", "launch", "tools") for p in (ROOT / d).rglob("*.py")]
TESTS = [*(ROOT / "tests").rglob("*.py")]
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTIONS)]


def num_lines(function):
    return function.end_lineno - function.lineno + 1


def num_parameters(function):
    """Parameters that a caller may name or place; not self, cls, *args and **kwargs."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([argument for argument in named if argument.arg not in {"self", "cls"}])


def nesting(node):
    """Blocks inside blocks below a node; elif is no deeper than its if, an inner function is."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and [child] == node.orelse
        is_block = isinstance(child, (*BLOCKS, ast.Match)) and not is_elif
        deepest = max(deepest, nesting(child) + is_block)
    return deepest


def oversized(paths, measure, limit):
    """Functions of the files whose measure is above the limit."""
    return [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {measure(function)}"
        for path in sorted(paths)
        for function in functions(path.read_text())
        if measure(function) > limit
    ]


def overlong(paths, limit):
    lengths = {path: len(path.read_text().splitlines()) for path in sorted(paths)}
    return [f"{path.relative_to(ROOT)}: {n}" for path, n in lengths.items() if n > limit]


def test_no_file_is_too_long():
    scripts = [p for d in ("launch", "tests", "slurm") for p in (ROOT / d).rglob("*.sh")]
    assert overlong([*PRODUCT, *TESTS, *scripts], MAX_FILE_LINES) == []


def test_no_package_hides_code_in_its_init():
    assert overlong([path for path in PRODUCT if path.name == "__init__.py"], MAX_INIT_LINES) == []


def test_no_function_is_too_long():
    assert oversized([*PRODUCT, *TESTS], num_lines, MAX_FUNCTION_LINES) == []


def test_no_function_takes_too_many_parameters():
    assert oversized(PRODUCT, num_parameters, MAX_PARAMETERS) == []


def test_no_function_nests_too_deep():
    assert oversized([*PRODUCT, *TESTS], nesting, MAX_NESTING) == []


@pytest.mark.parametrize(
    ("source", "measure", "expected"),
    [
        pytest.param("@d\ndef f():\n    '''a\n    b'''\n    return 1", num_lines, 4, id="lines"),
        pytest.param("def f(self, a, /, b, *c, d, **e): ...", num_parameters, 3, id="parameters"),
        pytest.param("def f():\n    return [a for a in b if a]", nesting, 0, id="comprehension"),
        pytest.param("def f():\n if a: b\n elif c: d\n else: e", nesting, 1, id="elif"),
        pytest.param("def f():\n if a: b\n else:\n  x\n  if c: d", nesting, 2, id="if-in-else"),
        pytest.param("def f():\n for a in b:\n  with c:\n   d", nesting, 2, id="with-in-for"),
        pytest.param("def f():\n try: a\n except E:\n  if b: c", nesting, 2, id="in-handler"),
        pytest.param("def f():\n if a:\n  def g():\n   while b: c", nesting, 2, id="inner"),
    ],
)
def test_measure_is_what_one_counts_by_hand(source, measure, expected):
    assert measure(functions(source)[0]) == expected
