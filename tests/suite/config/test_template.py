"""A value reaches the program as it was written, wherever its placeholder stands; all other braces are left alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from searchkit.errors import ConfigError, UsageError
from searchkit.suite.config import read as config
from searchkit.suite.config import shells
from searchkit.suite.config import template as t
from searchkit.suite.space.args import Value
from tests.support.suite import ok, project, run, show, task_dir

# bash loses \1 and \x7f in here-documents (its own marks for quoting), so they are left out
NASTY = [
    "'",
    '"',
    "$",
    "`",
    "\\",
    "!",
    "\n",
    "$(id)",
    "`id`",
    "${HOME}",
    "$HOME",
    "*",
    "~",
    "#",
    ";",
    "&&",
    "|",
    "<",
    ">",
]
NASTY += [
    "}",
    "{",
    " ",
    "\t",
    "--",
    "-n",
    "é",
    "数据",
    "\x02",
    "\x81",
    "\u2028",
    "😀",
    "%s",
    "\\n",
    "''",
    '""',
    "=",
    "7",
    "",
]
values = st.lists(
    st.sampled_from(NASTY)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\1\x7f"), max_size=5)
).map("".join)

# where {v} stands -> what must come before and after the value in the one argument
CONTEXTS = {
    "bare": ("{v}", "", ""),
    "inside a word": ("--lr={v}.", "--lr=", "."),
    "in single quotes": ("'a {v} b'", "a ", " b"),
    "in double quotes": ('"a {v} b"', "a ", " b"),
    "after quotes of both kinds": ("""'"'"it's"{v}""", "\"it's", ""),
    "after escaped quotes": (r"""\'\"{v}"\""'\'""", "'\"", '"\\'),
    "after an escaped quote in quotes": (r'''"\"'{v}"''', "\"'", ""),
    "after a variable": ("$X{v}", "x", ""),
    "after a variable in quotes": ('"$X{v}"', "x", ""),
    "in a substitution": ('"$(printf %s {v}.)"', "", "."),
    "in quotes in a substitution": ('''"a$(printf %s "{v}".)"''', "a", "."),
    "after a substitution": (""""$(echo "a)" ')')"{v}""", "a) )", ""),
    "in a subshell in a substitution": ("\"$( (printf %s '{v}.') )\"", "", "."),
    "in backticks": ('"`printf %s {v}.`"', "", "."),
    "in single quotes in backticks": ("\"`printf %s '{v}.'`\"", "", "."),
    "in double quotes in bare backticks": ('x"`printf %s "{v}."`"', "x", "."),
    "in a default": ("${NONE:-{v}}", "", ""),
    "in a quoted default": ('"${NONE:-{v}}"', "", ""),
    "in a quoted default before a parenthesis": ('"${NONE:-{v}(}"', "", "("),
    "in a quoted default after <": ('"${NONE:-<{v}}"', "<", ""),
    "after a comment": ("# don't {v} \"\n{v}", "", ""),
    "in a here-document": ('"$(cat <<END\nit\'s {v}.\nEND\n)"', "it's ", "."),
    "in a raw here-document": ("\"$(cat <<-'END'\n\tit's $X {v}.\n\tEND\n)\"", "it's $X ", "."),
    "after a variable in a here-document": ('"$(cat <<END\n$X{v}.\nEND\n)"', "x", "."),
    "after a here-document": ('"$(cat <<END\nit\'s\nEND\n)"{v}', "it's", ""),
}


def render(template: t.Template, texts: Mapping[str, str]) -> str | list[str]:
    return t.render(template, {name: Value(text, text) for name, text in texts.items()})


BASH = " ".join(shells.BASH)
SHELLS = [shell for shell in ("sh", "bash --posix", "busybox sh", BASH) if shutil.which(shell.split()[0])]


def argv(shell: str, command: str) -> list[bytes]:
    run = [*shell.split(), "-c"]
    done = subprocess.run([*run, command], capture_output=True, env={"PATH": "/usr/bin:/bin", "X": "x", "LC_ALL": "C"})
    assert done.stderr == b"" and done.returncode == 0, (command, done.stderr)
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("where", CONTEXTS)
@settings(max_examples=40, deadline=None)
@given(value=values)
@example(value="<(")
@example(value=">(a}")
@example(value="<")
def test_value_arrives_verbatim(shell: str, where: str, value: str) -> None:
    place, before, after = CONTEXTS[where]
    # a comment swallows the rest of its line, so the words before it stand on their own
    start = "printf '%s\\0' 1 " + ("\\\n" if not place.startswith("#") else "2\n")
    if place.startswith("#"):
        place = place.replace("\n", "\nprintf '%s\\0' ")
        start = "printf '%s\\0' 1 "
    if "<<-" in place and "\n\t" in "\n" + value:
        with pytest.raises(UsageError, match="begins with a tab"):
            render(t.parse(start + place, shell == BASH), {"v": value})
        return
    command = render(t.parse(start + place, shell == BASH), {"v": value})
    assert isinstance(command, str)
    assert argv(shell, command) == [b"1", (before + value + after).encode()]


# What bash adds to sh: where {v} stands -> what comes before and after it, as above.
IN_BASH = {
    "in ANSI quotes": (r"$'a\'\t{v}.'", "a'\t", "."),
    "in ANSI quotes in backticks": ("\"`printf %s $'{v}.'`\"", "", "."),
    "after ANSI quotes": (r"$'it\'s'{v}", "it's", ""),
    "after a dollar and quotes in quotes": ('"$\'"{v}"\'"', "$'", "'"),
    "after translated quotes": ('$"a b"{v}', "a b", ""),
    "in ANSI quotes in a default": ("${NONE:-$'{v}'}", "", ""),
    "in a default after a subscript": ("${NONE[0]:-{v}}", "", ""),
    "in a default in a here-document": ('"$(cat <<END\n${NONE:-{v}}.\nEND\n)"', "", "."),
    "in a here-string": ('"$(cat <<<{v}.)"', "", "."),
    "in a quoted here-string": ('"$(cat <<<"{v}.")"', "", "."),
    "in a process substitution": ('"$(cat <(printf %s {v}.))"', "", "."),
    "in quotes in a process substitution": ("\"$(cat <(printf %s '{v}.'))\"", "", "."),
    "in a substitution in arithmetic": ('"$(( $(printf %s {v} | wc -c) * 0 ))"{v}', "0", ""),
    "after arithmetic": ("$((2#101 << (1)))$[3 - 1]{v}", "102", ""),
    "after a pattern": ("${X/x/'\"'}{v}", '"', ""),
    "after numbers of a variable": ("${X:0:1}${#X}{v}", "x1", ""),
    "between braces": ("a{{v},b}", "a{", ",b}"),
    "in a substitution in a test": (
        '"$([[ $(printf %s {v}) == * && $X =~ ^[[:alpha:]]+$ ]] && printf %s {v}.)"',
        "",
        ".",
    ),
    "after a redirection of both outputs": ("x\n{ printf '%s' 2; } &>/dev/null; printf '%s\\0' {v}", "", ""),
}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("where", IN_BASH)
@settings(max_examples=40, deadline=None)
@given(value=values)
def test_value_arrives_verbatim_in_bash(where: str, value: str) -> None:
    place, before, after = IN_BASH[where]
    command = render(t.parse("printf '%s\\0' " + place), {"v": value})
    assert isinstance(command, str)
    assert argv(BASH, command) == [*([b"x"] if place.startswith("x\n") else []), (before + value + after).encode()]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@given(value=values)
@settings(max_examples=200, deadline=None)
def test_value_in_braces_of_a_bash_that_expands_them(value: str) -> None:
    command = render(t.parse("printf '%s\\0' a{x{v}}"), {"v": value})
    assert argv("bash -eu", str(command)) == [f"a{{x{value}}}".encode()]


NUMBERS = ["$(({n} + 1))", "$((7-{n}))", "$[{n}*2]", '"$(( ("{n}") ))"', "${X:{n}}", "${L[{n}]}", "${X:0:{n}}"]
NUMBERS += ["$(a[{n}]=5; echo ${#a[@]})", "$(L=([{n}]=7); echo ${L[*]})", "$(((({n}==1)))&&echo y||echo n)"]
NUMBERS += ["$(for ((i=0; i<{n}; i++)); do echo $i; done)"]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("where", NUMBERS)
def test_arithmetic_takes_whole_numbers_alone(where: str) -> None:
    template = t.parse(f"L=(a b); printf '%s\\0' {where}")
    for number in ("0", "1"):
        by_hand = f"L=(a b); printf '%s\\0' {where.replace('{n}', number)}"
        assert argv(BASH, str(render(template, {"n": number}))) == argv(BASH, by_hand)
    for value in ("a[$(touch /tmp/no)]", "HOME", "1.5", "", "1 2", "'1'"):
        with pytest.raises(UsageError, match="stands in arithmetic of the shell, where it must be a whole number"):
            render(template, {"n": value})


def test_a_negative_number_is_no_decrement() -> None:
    assert argv("sh", str(render(t.parse("printf '%s\\0' $((1-{n}))"), {"n": "-2"}))) == [b"3"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *[(f"[[ {test} ]] && x", "inside [[ … ]], which would") for test in ("$X == {v}", '-n "{v}"', "( 1 -eq {v} )")],
        ('x $"{v}"', 'inside $"…", which is looked up'),
        *[(f"x {form}", "in a form of ${…} which") for form in ("${X#{v}}", '"${X/{v}/a}"', "${X{v}}", "${X^^{v}}")],
        ("x ${ echo {v}; }", "in a form of ${…} which"),
    ],
)
def test_places_of_bash_without_room_for_a_value(command: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape("{v} stands " + message)):
        t.parse(command)
    t.parse(command, bash=False)
    with pytest.raises(ConfigError, match=r"c.yaml:2:13: task.template: \{v\} stands"):
        config.parse(f"task:\n  template: {json.dumps(command)}\n".encode(), "c.yaml")


@pytest.mark.parametrize(
    "command", ["x &", "a && b & # no", "a; (b &)", "{ a & }\n", "for i in 1; do a & done", "a &\n#\n"]
)
def test_a_last_command_in_the_background(command: str) -> None:
    assert "its last command ends in `&`" in t.parse(command).background
    assert "its last command ends in `&`" in t.parse(command, bash=False).background


@pytest.mark.parametrize(
    "command",
    [
        "x & wait",
        "x &\ny",
        "a && b",
        "x 2>&1",
        "x >&2",
        "x |& tee l",
        "x '&'",
        "x \\&",
        "x &>f",
        "x &>> f",
        "(( a & b ))",
        "x # &",
        "echo $(x &)",
    ],
)
def test_other_ampersands(command: str) -> None:
    assert t.parse(command).background == ""


def test_a_redirection_of_bash_under_sh() -> None:
    for command in ("t.py {v} &> log", "t.py &>>log"):
        assert t.parse(command, bash=False).background.startswith("`&>` is bash's")


@settings(deadline=None)
@given(value=values, other=values)
def test_lists_are_verbatim(value: str, other: str) -> None:
    template = t.parse(["python", "{v}", "--x={v}{w}.", "'{v}' \\{w}", "{{v}} ${v} {}", ""])
    assert not template.is_shell and template.names == ("v", "w")
    assert render(template, {"v": value, "w": other}) == [
        *("python", value, f"--x={value}{other}.", f"'{value}' \\{other}", "{v} ${v} {}", "")
    ]


def test_plain_values_are_not_quoted() -> None:
    template = t.parse("python t.py --lr {lr} --out=runs/{lr}_{batch-size} '{lr}' \"{lr}\"")
    assert render(template, {"lr": "1e-3", "batch-size": "512"}) == (
        "python t.py --lr 1e-3 --out=runs/1e-3_512 '1e-3' \"1e-3\""
    )


OTHER_BRACES = [
    *(
        "${HOME}",
        "${lr}",
        "${lr:-1}",
        "{a,b}",
        "{1..10}",
        "{a..z}",
        "{}",
        "{ }",
        "find . -exec echo {} +",
        "{1}",
        "{-a}",
    ),
    *("awk '{print $1}'", '{"a": 1}', "{a b}", "{lr!r}", "{lr:.2f}", "{lr[0]}", "{a.}", "{.a}", "f() { echo; }", "}{"),
]


@pytest.mark.parametrize("text", OTHER_BRACES)
def test_other_braces_stay(text: str) -> None:
    for source in (f"x {text}", ["x", text]):
        template = t.parse(source)
        assert template.names == () and t.render(template, {}) == source


@pytest.mark.parametrize(
    ("source", "names", "rendered"),
    [
        ("x {{lr}}", (), "x {lr}"),
        ("x ${{lr}}", (), "x ${lr}"),
        ("x {{{lr}}}", (), "x {{lr}}"),
        ("x {{lr}", ("lr",), "x {1"),
        ("x {lr}}", ("lr",), "x 1}"),
        ("x '{\"lr\": {lr}}'", ("lr",), "x '{\"lr\": 1}'"),
        ("x {é.b-c_2} {a}{é.b-c_2}", ("é.b-c_2", "a"), "x 1 11"),
        ("x {model.lr}", ("model.lr",), "x 1"),
        ("x {_a}{b-}", ("_a", "b-"), "x 11"),
    ],
)
def test_placeholders(source: str, names: tuple[str, ...], rendered: str) -> None:
    template = t.parse(source)
    assert template.names == names
    assert render(template, dict.fromkeys(names, "1")) == rendered


def test_digits_before_a_redirection_are_no_descriptor() -> None:
    template = t.parse("printf '%s\\0' {v}>&1")
    assert argv("sh", str(render(template, {"v": "2"}))) == [b"2"]


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("srun -n1 python t.py", "srun"),
        ("  /usr/bin/sbatch job.sh", "/usr/bin/sbatch"),
        ("A=1 B='x y' docker run x", "docker"),
        ("exec env -i -u HOME A={lr} python t.py", "python"),
        ("/usr/bin/env -- python t.py", "python"),
        ("# first\nsrun x", "srun"),
        ("'my prog' x", "my prog"),
        ("python t.py it's", "python"),
        (["env", "A=1", "srun", "x"], "srun"),
        (["./train.sh"], "./train.sh"),
        ("{launcher} x", "{launcher}"),
        ("A=1", ""),
        ("A=$(nproc --all) x", ""),
    ],
)
def test_program(command: str | list[str], program: str) -> None:
    assert t.parse(command).program == program


@pytest.mark.parametrize("command", ["", "  \n", [], [""], [" ", "x"]])
def test_empty_commands(command: str | list[str]) -> None:
    with pytest.raises(UsageError, match="the command is empty"):
        t.parse(command)


@pytest.mark.parametrize("command", ["a\0b", ["a", "\0"]])
def test_nul(command: str | list[str]) -> None:
    with pytest.raises(UsageError, match="NUL"):
        t.parse(command)


@pytest.mark.parametrize("command", ["x \\{lr}", 'x "\\{lr}"', "x \\\\\\{lr}"])
def test_backslash_before_a_placeholder(command: str) -> None:
    with pytest.raises(UsageError) as e:
        t.parse(command)
    assert e.value.message == "the backslash before {lr} would escape the first character of the value"
    assert "{{lr}}" in e.value.hint


@pytest.mark.parametrize("command", ["x \\\\{lr}", "x '\\{lr}'", "x \\ {lr}", "x \\{{lr}}"])
def test_other_backslashes(command: str) -> None:
    t.parse(command)


def test_value_that_ends_the_here_document() -> None:
    template = t.parse("cat <<END\n{v}\nEND\n")
    with pytest.raises(UsageError, match="ends the here-document"):
        render(template, {"v": "a\nEND\nrm -rf ."})


# --- forms that may be left out ---------------------------------------------------------------------------------------


def value(data: Any) -> Value:
    return Value(data, {True: "true", False: "false", None: "~"}.get(data, data))


FORMS = [  # form, value (the empty tuple: there is none), words
    *[("{flag:x}", True, ["--x"]), ("{flag:x}", False, []), ("{flag:x}", None, []), ("{flag:x}", (), [])],
    *[("{x?--lr}", "1e-3", ["--lr", "1e-3"]), ("{x?--lr}", None, []), ("{x?--lr}", (), [])],
    *[("{x?--lr}", False, ["--lr", "false"]), ("{x?-l}", "", ["-l", ""]), ("{x?--lr}", "a $b'c", ["--lr", "a $b'c"])],
    *[
        ("{x?lr=}", "1e-3", ["lr=1e-3"]),
        ("{x?+a.b@c/d=}", "a $b'c", ["+a.b@c/d=a $b'c"]),
        ("{x?lr=}", True, ["lr=true"]),
    ],
    *[("{x?lr=}", None, []), ("{x?lr=}", (), []), ("{x?--lr=}", "~", ["--lr=~"])],
]


COMMANDS = [
    "printf '<%s>' 1 {}",
    "printf '<%s>' 1 \\\n{} # it's {}",
    "printf '<%s>' 1\t{}; true",
    "printf '<%s>' 1 {}|cat",
    "true &&\nprintf '<%s>' 1 {}\n",
    "printf '<%s>' 1 {} \\\n",
    "(printf '<%s>' 1 {})",
    "printf %s \"$(printf '<%s>' 1 {})\"",
    "printf %s \"`printf '<%s>' 1 {}`\"",
]


@pytest.mark.parametrize(("form", "data", "words"), FORMS)
def test_forms(form: str, data: Any, words: list[str]) -> None:
    values = {} if data == () else {"x": value(data)}
    template = t.parse(["t.py", form, "end"])
    assert template.names == ("x",) and t.render(template, values) == ["t.py", *words, "end"]
    for command in COMMANDS:
        rendered = t.render(t.parse(command.replace("{}", form)), values)
        done = subprocess.run(["sh", "-c", str(rendered)], capture_output=True, text=True, check=True)
        assert done.stdout == "<1>" + "".join(f"<{word}>" for word in words), rendered


@pytest.mark.parametrize(
    "place",
    [
        *(
            "a{}",
            "{}b",
            "'{}'",
            '"{}"',
            "{}{}",
            "$X{}",
            "{}>f",
            ">{}",
            "cat <<E\n{}\nE",
            "${Y:-{}}",
            "`true`{}",
            "{}`true`",
        ),
        *("$(true){}", "a\\\n{}", "{}\\\nb", "a=\\\n\\\n{}", "$((1+{}))"),
    ],
)
@pytest.mark.parametrize("form", ["{flag:x}", "{x?--a}", "{x?a=}"])
def test_forms_are_words(place: str, form: str) -> None:
    for command in (f"t.py {place.replace('{}', form)}", ["t.py", place.replace("{}", form)]):
        with pytest.raises(UsageError) as error:
            t.parse(command)
        assert error.value.message == f"{form} must stand alone, as a word of its own outside of quotes"
        assert error.value.hint.endswith(f"write {{{form}}} for the literal text")


LISTS = [  # form, the list as it is written, words
    *[("{x...}", "[64, 1e-3, a b]", ["64", "1e-3", "a b"]), ("{x...}", "[]", []), ("{x...}", "['']", [""])],
    *[("{x?--l...}", "[64, '$x']", ["--l", "64", "$x"]), ("{x?--l...}", "[]", []), ("{x?--l...}", "null", [])],
    *[("{x?l=...}", "[010, [1, 2], {a: 1}]", ["l=010", "l=[1, 2]", "l={a: 1}"]), ("{x?l=...}", "[]", [])],
    ("{x...}", "['a, b', \"it's\", no, ~]", ["a, b", "it's", "no", "~"]),
]


@pytest.mark.parametrize(("form", "text", "words"), LISTS)
def test_lists_as_words(form: str, text: str, words: list[str]) -> None:
    for command in [*COMMANDS, None]:
        template = json.dumps(command.replace("{}", form) if command else ["printf", "<%s>", "1", form])
        arg = f"{{type: Categorical, name: x, value: [{text}]}}"
        cfg = config.parse(f"task: {{template: {template}, search_args: [{arg}]}}".encode(), "cfg.yaml")
        rendered = t.render(cfg.template, cfg.task.search_args[0].points()[0])
        argv = rendered if isinstance(rendered, list) else [*shells.default(), "-c", rendered]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout == "<1>" + "".join(f"<{word}>" for word in words), rendered


@given(st.lists(values))
@example(["\x85", "\u2028 \n\n a", "~"])
@settings(max_examples=50, deadline=None)
def test_each_element_arrives_verbatim(texts: list[str]) -> None:
    x = Value(texts, json.dumps(texts, ensure_ascii=False))
    command = t.render(t.parse("printf '%s\\0' 1 {x...}"), {"x": x})
    assert argv(BASH if BASH in SHELLS else "sh", str(command)) == [b"1", *(text.encode() for text in texts)]


@pytest.mark.parametrize("place", ["a{x...}", "'{x...}'", '"{x?--a...}"', "{x...}>f", "$((1+{x...}))", "{x?a=...}b"])
def test_lists_are_words_of_their_own(place: str) -> None:
    with pytest.raises(UsageError, match=r"\.\.\.} must stand alone, as a word of its own outside of quotes"):
        t.parse(f"t.py {place}")


@pytest.mark.parametrize(
    ("form", "values", "what"),
    [
        ("{x...}", "[[1], 2]", "{x...} needs a list, of which each element becomes a word, but may be '2'; write {x}"),
        ("{x...}", "[[1], null]", "{x...} needs a list, … but may be null; write {x?--x...}"),
        ("{x?--y...}", "[null, ab]", "{x?--y...} needs a list, … but may be 'ab'; write {x}"),
        ("{x...}", "[[1]], when: a == 1", "{x...} may have no value, as it has a condition; write {x?--x...}"),
    ],
)
def test_what_is_no_list(form: str, values: str, what: str) -> None:
    text = f"task:\n  template: t.py {form} {{a}}\n  search_args:\n  - {{type: Categorical, name: a, value: [1]}}\n"
    what = what.replace("…", "of which each element becomes a word,")
    (fault,) = faults(text + f"  - {{type: Categorical, name: x, value: {values}}}\n")
    assert fault.startswith(f"cfg.yaml:2:18: task.template: {what}")


@pytest.mark.slow
def test_a_list_in_a_task(tmp_path: Path) -> None:
    text = "task:\n  template: printf '<%s>' {x...} {y?--y=...}\n  search_args:\n"
    text += "  - {type: Categorical, name: x, value: [[1e-3, a b], []]}\n"
    text += "  - {type: Categorical, name: y, value: [[1]]}\n"
    folder = project(tmp_path / "p", text)
    said = ok(run(folder, "search-run", "--dry-run", "config.yaml"))
    assert "#0 printf '<%s>' 1e-3 'a b' --y=1\n   jobs/tree/x/[1e-3, a b]/y/[1] -> jobs/all/0\n" in said
    ok(run(folder, "search-run", "config.yaml"))
    assert [job["command"] for job in show(folder)["jobs"]][1] == "printf '<%s>'  --y=1"
    assert (task_dir(folder) / "jobs/tree/x/[1e-3, a b]/y/[1]/log").read_text() == "<1e-3><a b><--y=1>"
    params = json.loads((task_dir(folder) / "jobs/all/0/params.json").read_text())
    assert params["values"] == {"x": [0.001, "a b"], "y": [1]}


def test_forms_as_literal_text() -> None:
    source = "x {{flag:x}} {{x?--a}} {{x...}} {{x?--a...}} {x..} ${x...} ${x?--a} {x?} {flag:} {flag:x?--a} {x?a b}"
    assert t.parse(source).names == () and t.render(t.parse(source), {}) == source.replace("{{", "{").replace("}}", "}")
    with pytest.raises(UsageError, match=r"the backslash before {flag:x} would"):
        t.parse("x \\{flag:x}")


def test_what_a_form_can_not_render() -> None:
    with pytest.raises(UsageError) as error:
        t.render(t.parse("x {flag:lr}"), {"lr": value("1")})
    assert (error.value.message, error.value.hint) == ("{flag:lr} needs true or false, not '1'", "write {lr?--lr}")
    with pytest.raises(UsageError) as error:
        t.render(t.parse("x {lr}"), {})
    assert error.value.message == "the template needs {lr}, but there is no 'lr' here"


# --- in a config ------------------------------------------------------------------------------------------------------


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as e:
        config.parse(text.encode(), "cfg.yaml")
    return str(e.value).splitlines()


TEMPLATES = {
    "t.py {lrr} {gamma}": [
        "2:18: task.template: {lrr} is not a declared argument (did you mean lr?); write {{lrr}} for the literal text",
        "4:32: search_args: 'lr' is declared, but the template never uses {lr}",
    ],
    "t.py ${lr} {{lr}} {gamma}": ["4:32: search_args: 'lr' is declared, but the template never uses {lr}"],
    '"a {lr}\n\n    {gamma} \\\n   {wat}"': [
        "5:4: task.template: {wat} is not a declared argument (valid: lr, gamma); write {{wat}} for the literal text"
    ],
    "[t.py, '{lr}', '{gamma}',\n   '{lr2}']": [
        "3:5: task.template: {lr2} is not a declared argument (did you mean lr?); write {{lr2}} for the literal text"
    ],
    '"\\x7blr2\\x7d {lr} {gamma}"': [
        "2:13: task.template: {lr2} is not a declared argument (did you mean lr?); write {{lr2}} for the literal text"
    ],
    "x {lr} \\{gamma}": [
        "2:13: task.template: the backslash before {gamma} would escape the first character of the value; "
        "write {{gamma}} for the literal text, or two backslashes for a backslash and the value"
    ],
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_faults(template: str) -> None:
    text = f"task:\n  template: {template}\n  search_args:\n"
    at = 4 + template.count("\n")
    for name in ("lr", "gamma"):
        text += f"  - {{type: Categorical, name: {name}, value: [1]}}\n"
    expected = [fault.replace("4:32", f"{at}:31") for fault in TEMPLATES[template]]
    assert faults(text) == ["cfg.yaml:" + fault for fault in expected]


def test_placeholder_without_any_argument() -> None:
    assert faults("task: {template: 'x {lr}'}") == [
        "cfg.yaml:1:21: task.template: {lr} is not a declared argument (none is declared); "
        "write {{lr}} for the literal text"
    ]


def test_name_that_no_placeholder_can_have() -> None:
    start = "task:\n  template: x {b}\n  search_args:\n  - {type: Categorical, name: b, value: [1]}\n"
    assert faults(start + "  - {type: Categorical, name: 2nd, value: [1]}") == [
        "cfg.yaml:5:31: search_args: '2nd' is declared, but the template never uses {2nd} "
        "(placeholders begin with a letter and hold letters, digits, '_', '-' and '.')"
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python train.py --lr 1e-3", ["python", "train.py", "--lr", "1e-3"]),
        (" ./run.sh 'a b; c' \"d e\" k=v", ["./run.sh", "a b; c", "d e", "k=v"]),
        ("sleep 0.1", ["sleep", "0.1"]),
    ],
)
def test_a_plain_command_needs_no_shell(command: str, words: list[str]) -> None:
    assert shells.direct(command) == words


@pytest.mark.parametrize(
    "command",
    [
        *("true 1", "echo a", "a $X", "a; b", "a | b", "A=1 a", "a > f", "a *", "~/a", "a ~", "a `b`", "a {1,2}"),
        *("a # b", "exit 3", "'a b' c", 'a "$x"', 'a "\\n"', "a\nb", "a &", "a ?", "a [b]", "a \\ b", "(a)", "! a"),
        *("a !x", ""),
    ],
)
def test_what_the_shell_would_change_is_left_to_it(command: str) -> None:
    assert shells.direct(command) is None


@given(st.text("ab1 \t'\"-=./:,%+@$`\\!*?[]{}~#;&|<>()\n", max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_plain_command_is_what_the_shell_makes_of_it(tail: str) -> None:
    command = f"/usr/bin/printf '<%s>' {tail}"
    words = shells.direct(command)
    if words is not None:
        for shell in (shells.SH, shells.default()):
            by_shell = subprocess.run([*shell, "-c", command], capture_output=True)
            assert subprocess.run(words, capture_output=True).stdout == by_shell.stdout
