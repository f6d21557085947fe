"""Expressions mean what they mean in Python, where Python is the oracle; everything else is refused at its column."""

from __future__ import annotations

import ast
import dataclasses
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import searchkit
from searchkit.errors import UsageError
from searchkit.reading import expression as x


def value(text: str, names: tuple[str, ...] = (), **lookup: Any) -> Any:
    return x.evaluate(x.parse(text, names or tuple(lookup)), lookup)


def fault(text: str, names: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as e:
        x.parse(text, names)
    assert e.value.exit_code == 2
    return e.value.message


def failure(text: str, **lookup: Any) -> str:
    with pytest.raises(UsageError) as e:
        value(text, **lookup)
    return e.value.message


# --- values ----------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "1 + 2 * 3 - 4 / 2": 5.0,
    "2 ** 3 ** 2": 512,
    "-2 ** 2": -4,
    "7 // 2 + 7 % 4": 6,
    "(1 + 2) * 3": 9,
    "not 1 == 2": True,
    "1 < 2 <= 2 < 3": True,
    "1 < 2 > 5": False,
    "1 and 0 or 'x'": "x",
    "0 or [] or ()": [],
    "2 in [1, 2] and 3 not in (1, 2)": True,
    "'a' in 'abc'": True,
    "[[1, 2], [3]][0][-1]": 2,
    "sum([1, 2]) + len('abc') + min(4, 5) + max([6, 7]) + abs(-8)": 25,
    "140G": 140_000_000_000,
    "1.5M + 2k + 1K + .5k + 3T": 3_000_001_503_500,
    "4.35k == 4350": True,
    "1.0001k": 1000.1,
    "140 * 1e9 == 140G": True,
    "0x1F + 010 + 1_000": 1041,
    "1. + .5 + 1e-3 + 1E2": 101.501,
    "true and True and not false and None == null": True,
    "'a\\tb\"'": 'a\tb"',
    "  1 +\n   1  ": 2,
    "'é数' == \"é数\"": True,
    "+1 - -1": 2,
    "0 ** 0": 1,
    "2 ** -1": 0.5,
    "1 ** 10000000000": 1,
    "0 * 10 ** 1000": 0,
}


@pytest.mark.parametrize("text", VALUES)
def test_values(text: str) -> None:
    result = value(text)
    assert result == VALUES[text] and type(result) is type(VALUES[text])


def test_short_circuit() -> None:
    assert value("a == 0 or 1 / a > 5", a=0) is True
    assert value("a != 0 and 1 / a > 5", a=0) is False
    assert value("1 > 2 > 1 / 0") is False


def test_names() -> None:
    expr = x.parse("lr * batch-size - batch <= lambda + model.lr", ("lr", "batch", "batch-size", "lambda", "model.lr"))
    assert expr.names == ("lr", "batch-size", "batch", "lambda", "model.lr")
    lookup = {"lr": 1, "batch-size": 10, "batch": 2, "lambda": 3, "model.lr": 5}
    assert x.evaluate(expr, lookup) is True
    assert x.parse("max(max, min(a))").names == ("max", "a")
    assert x.parse("1 + 1").names == ()


def test_hyphens_only_in_declared_names() -> None:
    assert value("batch-size", ("batch", "size"), batch=5, size=2) == 3
    assert value("a-1", ("a",), a=5) == 4
    assert value("a-b-c", ("a-b", "c"), **{"a-b": 5, "c": 2}) == 3
    assert x.parse("a-b2", ("a-b",)).names == ("a", "b2")
    assert x.parse("lr2 + lr.max", ("lr",)).names == ("lr2", "lr.max")


def test_dotted_names_whole_or_part_by_part() -> None:
    expr = x.parse("metric.test.mAP >= 40 and arch.depth[1] in [3, 4]")
    assert expr.names == ("metric.test.mAP", "arch.depth")
    assert x.evaluate(expr, {"metric.test.mAP": 41, "arch.depth": [2, 3]}) is True
    assert x.evaluate(expr, {"metric": {"test": {"mAP": 39}}, "arch": {"depth": [2, 3]}}) is False
    assert value('x["overhead.flops"] <= 140*1e9', x={"overhead.flops": 139e9}) is True


def test_quoted_names() -> None:
    expr = x.parse("name('val/acc') - name(\"AR@100\") * lr + name ( 'it\\'s' )", ("lr",))
    assert expr.names == ("val/acc", "AR@100", "lr", "it's")
    assert x.evaluate(expr, {"val/acc": 3, "AR@100": 1, "lr": 2, "it's": 5}) == 6
    assert value("name + name('name')", name=2) == 4
    assert x.parse_lambda("lambda x: x['a.b'] > name('val/acc')").names == ("a.b", "val/acc")
    assert [x.quoted(name) for name in ("acc", "a.b_1", "val/acc", "it's")] == [
        *("acc", "a.b_1", "name('val/acc')", 'name("it\'s")'),
    ]
    for name in ("val-f1", "in", "1st", "a b", "数/据", "\\"):
        assert x.parse(f"{x.quoted(name)} > 1").names == (name,)


def test_what_should_have_been_quoted() -> None:
    names = ("val/acc", "val/acc5", "val-f1", "AR@100", "acc", "loss/cls", "a/b")
    assert x.unquoted("val/acc > 1", names) == " (write name('val/acc'))"
    assert x.unquoted("val/acc5 - val-f1", names) == " (write name('val/acc5') and name('val-f1'))"
    assert x.unquoted("acc - name('val/acc') + x/acc + a/b2", names) == ""


def test_an_expression_is_a_frozen_value() -> None:
    expr = x.parse("a + [1, 'b'][0]")
    assert expr == x.parse("a + [1, 'b'][0]") == pickle.loads(pickle.dumps(expr)) and hash(expr)
    with pytest.raises(dataclasses.FrozenInstanceError):
        expr.text = ""  # type: ignore[misc]


# --- what can't be read ----------------------------------------------------------------------------------------------

FAULTS = {
    "": "an expression must not be empty",
    " \n": "an expression must not be empty",
    "lr @ 2": "column 4 of 'lr @ 2': '@' is not allowed",
    "a = 3": "column 3 of 'a = 3': '=' is not allowed (write ==)",
    "a && b": "column 3 of 'a && b': '&' is not allowed (write and)",
    "a ; b": "column 3 of 'a ; b': ';' is not allowed (write and)",
    "!a": "column 1 of '!a': '!' is not allowed (write not)",
    "1 +": "column 4 of '1 +': the expression can't go on like this",
    "  a b": "column 5 of '  a b': the expression can't go on like this",
    "(1": "column 1 of '(1': the expression can't go on like this",
    "a)": "column 2 of 'a)': the expression can't go on like this",
    "1, 2": "column 1 of '1, 2': one expression is needed, not several with commas",
    "a + 'bc": "column 5 of \"a + 'bc\": a string that doesn't end",
    "'a' 'b'": "column 5 of \"'a' 'b'\": the expression can't go on like this",
    "f'{x}'": "column 2 of \"f'{x}'\": an operator must stand before \"'{x}'\"",
    "1 if a else 2": "column 3 of '1 if a else 2': 'if' is not allowed",
    "a is None": "column 3 of 'a is None': 'is' is not allowed",
    "lambda: 1": "column 1 of 'lambda: 1': 'lambda' is not allowed",
    "[y for y in z]": "column 4 of '[y for y in z]': 'for' is not allowed",
    "(y := 1)": "column 4 of '(y := 1)': ':' is not allowed",
    "{1: 2}": "column 1 of '{1: 2}': '{' is not allowed",
    "a[1:2]": "column 4 of 'a[1:2]': ':' is not allowed",
    "open('f')": "column 1 of \"open('f')\": unknown function 'open' (valid: sum, len, min, max, abs)",
    "1 + maxx(2)": "column 5 of '1 + maxx(2)': unknown function 'maxx' (did you mean max?)",
    "a.b(1)": "column 1 of 'a.b(1)': unknown function 'a.b' (did you mean abs?)",
    "(1)(2)": "column 2 of '(1)(2)': unknown function '1' (valid: sum, len, min, max, abs)",
    "min(a)(b)": "column 1 of 'min(a)(b)': this form is not allowed",
    "min(*a)": "column 5 of 'min(*a)': this form is not allowed",
    "min(a, key=b)": "column 11 of 'min(a, key=b)': '=' is not allowed (write ==)",
    "'a'.upper()": "column 4 of \"'a'.upper()\": '.' is not allowed",
    "(a).b": "column 4 of '(a).b': '.' is not allowed",
    "140X": "column 1 of '140X': '140X' is no number",
    "1e3k": "column 1 of '1e3k': '1e3k' is no number",
    "1m": "column 1 of '1m': '1m' is no number",
    "1j": "column 1 of '1j': '1j' is no number",
    "1__0": "column 1 of '1__0': '1__0' is no number",
    "'\\x1'": "column 1 of \"'\\\\x1'\": \"'\\\\x1'\" is no string",
    "~a": "column 1 of '~a': '~' is not allowed",
    "a\\b": "column 2 of 'a\\\\b': '\\\\' is not allowed",
    "a # b": "column 3 of 'a # b': '#' is not allowed",
    "AR@100 > .5": "column 3 of 'AR@100 > .5': '@' is not allowed (write name('AR@100'))",
    "1 - val/AR@100:5": "column 11 of '1 - val/AR@100:5': '@' is not allowed (write name('val/AR@100:5'))",
    "`val/acc` > 1": "column 1 of '`val/acc` > 1': '`' is not allowed (write name('val/acc'))",
    "1 + name(val/acc)": "column 5 of '1 + name(val/acc)': name(…) takes one name in quotes, as in name('val/acc')",
    "name('a', 'b')": "column 1 of \"name('a', 'b')\": name(…) takes one name in quotes, as in name('val/acc')",
    "name('')": "column 1 of \"name('')\": name(…) takes one name in quotes, as in name('val/acc')",
    "name(1)": "column 1 of 'name(1)': name(…) takes one name in quotes, as in name('val/acc')",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults(text: str) -> None:
    assert fault(text) == FAULTS[text]


def test_a_fault_says_what_is_allowed() -> None:
    with pytest.raises(UsageError) as e:
        x.parse("a @ b")
    assert e.value.hint.startswith("allowed: names, numbers (also 140G, 1.5M, 2k)")


def test_long_and_deep_texts() -> None:
    assert fault("1" * 20_001) == "an expression must have at most 20000 characters, not 20001"
    assert fault("1" * 1001).endswith("is no number")
    for text in (
        "(" * 9000 + "1" + ")" * 9000,
        "-" * 19_000 + "1",
        "not " * 4000 + "1",
        "1+" * 9000 + "1",
        "[" * 199 + "]" * 199,
    ):
        assert "nested too deeply" in fault(text) or "can't go on" in fault(text)
    assert value("1" + "+1" * 140) == 141
    assert value(" or ".join(["0"] * 2000)) == 0


# --- what can't be evaluated -----------------------------------------------------------------------------------------

FAILURES = {  # None: in the words of Python, which change
    "nope": "unknown name 'nope' (valid: lr, word, box)",
    "lrr": "unknown name 'lrr' (did you mean lr?)",
    "lr.real": "unknown name 'lr.real' (valid: lr, word, box)",
    "word.upper": "unknown name 'word.upper' (valid: lr, word, box)",
    "lr.__class__": "unknown name 'lr.__class__' (valid: lr, word, box)",
    "1 / 0": "division by zero",
    "1 < 'a'": "'<' not supported between instances of 'int' and 'str'",
    "word * 10": "* needs numbers, not a str",
    "[0] * 10": "* needs numbers, not a list",
    "word % 1": "% needs numbers, not a str",
    "word + word": "+ needs numbers, not a str",
    "-word": "- needs numbers, not a str",
    "10 ** 10 ** 10": "the result of ** is too large",
    "9 ** 9 ** 9 ** 9": "the result of ** is too large",
    "10 ** 1000 * 10 ** 1000": "the result of * is too large",
    "2.0 ** 5000": "the result is too large",
    "10 ** 1000 / 3.0": "the result is too large",
    "(-8) ** 0.5": "-8 has no real power 0.5",
    "box[5]": "list index out of range",
    "box['a']": None,
    "lr[0]": "a float can't be indexed",
    "len(lr)": None,
    "max([])": None,
    "abs(1, 2)": None,
    "sum(word)": "unsupported operand type(s) for +: 'int' and 'str'",
    "1 in lr": None,
}


@pytest.mark.parametrize("text", FAILURES)
def test_failures(text: str) -> None:
    message = failure(text, lr=0.5, word="abc", box=[1])
    expected = FAILURES[text]
    assert message.startswith(f"can't evaluate {text!r}: ")
    assert expected is None or message == f"can't evaluate {text!r}: {expected}"


# --- laws ------------------------------------------------------------------------------------------------------------

ATOMS = ["1", "2", "3.5", "-1", "0", "lr", "batch-size", "[1, lr]", "'a'", "10", "1e400", "true"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "in", "not in", "and", "or"]
trees = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda t: f"(not {t})")
        | inner.map(lambda t: f"(-{t})")
        | inner.map(lambda t: f"abs({t})")
        | st.lists(inner, min_size=1, max_size=3).map(lambda ts: f"max({', '.join(ts)})")
        | st.tuples(inner, inner).map(lambda t: f"[{t[0]}, {t[1]}][0]")
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(trees)
def test_python_is_the_oracle(text: str) -> None:
    lookup = {"lr": 0.5, "batch-size": 3}
    try:
        ours = x.evaluate(x.parse(text, lookup), lookup)
    except UsageError:
        return  # stricter than Python, on purpose; where it answers, the answer is Python's
    oracle = text.replace("batch-size", "batch_size").replace("true", "True")
    theirs = eval(oracle, {"__builtins__": {}}, {"lr": 0.5, "batch_size": 3, "abs": abs, "max": max})
    assert repr(ours) == repr(theirs)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*ATOMS, *OPERATORS, *"()[],.'\"@:=", "sum", "min", "9G", " "]), max_size=15).map(" ".join)
)
def test_any_text_is_evaluated_or_refused(text: str) -> None:
    begin = time.monotonic()
    try:
        x.evaluate(x.parse(text, ("lr", "batch-size")), {"lr": 2, "batch-size": [1, 2]})
    except UsageError as e:
        assert e.message
    assert time.monotonic() - begin < 5


@pytest.mark.slow
@given(st.text(max_size=40))
def test_arbitrary_text_raises_nothing_else(text: str) -> None:
    try:
        x.evaluate(x.parse(text), {})
    except UsageError:
        pass


@pytest.mark.slow
def test_nothing_is_ever_executed() -> None:
    """No `eval`, `exec`, `compile` or `__import__` anywhere in the package."""
    files = sorted(Path(searchkit.__file__).parent.rglob("*.py"))
    assert any(path.name == "expression.py" for path in files)
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path}:{node.lineno}"


# --- lambdas, rows ---------------------------------------------------------------------------------------------------

LAMBDAS = {  # text: (what it means, names)
    "lambda x: x['a.b'] > 1": ("a.b > 1", ("a.b",)),
    "  lambda  row :row[\"a.b\"]<=140*1e9 and row['c'] == 480": ("a.b <= 140*1e9 and c == 480", ("a.b", "c")),
    "lambda x: sum(x['d']) >= 11 and sum(x['d']) < 17": ("sum(d) >= 11 and sum(d) < 17", ("d",)),
    "lambda x: x['d'][-1] in [1, x['e']]": ("d[-1] in [1, e]", ("d", "e")),
    "lambda sum: sum(sum['d']) > 1": ("sum(d) > 1", ("d",)),
    "lambda x: (x[ 'd' ])": ("d", ("d",)),
    "lambda x: True": ("True", ()),
}


@pytest.mark.parametrize("text", LAMBDAS)
def test_a_lambda_is_the_expression_in_it(text: str) -> None:
    meaning, names = LAMBDAS[text]
    expr = x.parse_lambda(text)
    assert (expr.tree, expr.names, expr.text) == (x.parse(meaning).tree, names, text)


LAMBDA_FAULTS = {
    "x['a'] > 1": (1, "it must begin as `lambda x:` does"),
    "lambda: 1": (1, "it must begin as `lambda x:` does"),
    "lambda x, y: x['a']": (1, "it must begin as `lambda x:` does"),
    "lambda x=1: x['a']": (1, "it must begin as `lambda x:` does"),
    "lambda *x: x['a']": (1, "it must begin as `lambda x:` does"),
    "lambda x: x": (11, "x must be followed by a key, as in x['a.b']"),
    "lambda x: 1 < x[0]": (15, "x must be followed by a key, as in x['a.b']"),
    "lambda x: x[x['a']] > 1": (11, "x must be followed by a key, as in x['a.b']"),
    "lambda x: len(x) > 1": (15, "x must be followed by a key, as in x['a.b']"),
    "lambda x: x.flops > 1": (11, "write x['flops']"),
    "lambda x: x['a'] > y": (20, "write x['y']"),
    "lambda x: x['a'].b": (17, "'.' is not allowed"),
    "lambda x: x.get('a')": (11, "unknown function 'x.get' (valid: sum, len, min, max, abs)"),
    "lambda x: lambda y: 1": (11, "'lambda' is not allowed"),
    "lambda x: x['a'] >": (19, "the expression can't go on like this"),
    "lambda x: x['a'] if 1 else 0": (18, "'if' is not allowed"),
}


@pytest.mark.parametrize("text", LAMBDA_FAULTS)
def test_faults_of_a_lambda(text: str) -> None:
    column, what = LAMBDA_FAULTS[text]
    with pytest.raises(x.ExpressionError) as e:
        x.parse_lambda(text)
    assert e.value.message == f"column {column} of {text!r}: {what}" and e.value.column == column - 1
    assert e.value.pointer() == f"{text}\n{' ' * (column - 1)}^"


def test_an_empty_lambda() -> None:
    with pytest.raises(UsageError) as e:
        x.parse_lambda("lambda x: ")
    assert e.value.message == "an expression must not be empty"


def test_the_pointer_into_long_texts() -> None:
    for text in ("a + " * 50 + "b @ c" + " + d" * 50, "a +\n\tb @ c +\nd"):
        with pytest.raises(x.ExpressionError) as e:
            x.parse(text)
        line, caret = e.value.pointer().split("\n")
        assert len(line) <= 100 and line[caret.index("^")] == "@"


def test_a_function_of_rows() -> None:
    expr = x.parse("a.b * 2 + n")
    assert [x.function(expr)(row) for row in ({"a.b": 1, "n": 2}, {"a": {"b": 3}, "n": 4})] == [4, 10]
    columns = {"a.b": [1, 2, 3], "n": [10, 20, 30]}
    run = x.function(expr, lambda name: lambda i: columns[name][i])
    assert [run(i) for i in range(3)] == [12, 24, 36]
    with pytest.raises(UsageError) as e:
        run(3)
    assert e.value.message == "can't evaluate 'a.b * 2 + n': list index out of range"


def test_a_tuple_is_a_list() -> None:
    for depth in ((3, 4), [3, 4]):
        for text in ("d == [3, 4]", "d == (3, 4)", "d in [[3, 4]]", "a.d != [3]", "sum(d) == 7", "d[1] == 4"):
            assert value(text, d=depth, a={"d": depth}) is True
    assert value("d == [[1, 2], 3]", d=((1, 2), 3)) is True


@settings(deadline=None)
@given(trees)
def test_python_is_the_oracle_of_lambdas(text: str) -> None:
    row = {"lr": 0.5, "batch-size": 3}
    full = "lambda x: " + text.replace("lr", "x['lr']").replace("batch-size", "x['batch-size']")
    try:
        ours = x.function(x.parse_lambda(full))(row)
    except UsageError:
        return
    theirs = eval(full.replace("true", "True"), {"__builtins__": {}, "abs": abs, "max": max})(row)
    assert repr(ours) == repr(theirs)
