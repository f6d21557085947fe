"""A config is read as the user wrote it, or refused with every fault at its place."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.errors import ConfigError, Fault, UsageError
from searchkit.suite.config import read as c
from searchkit.suite.config import shells
from searchkit.suite.config.settings import Objective, StopRule, WarmStart
from searchkit.suite.space.args import Best, Categorical, Nested, Range, Value
from tests.support.suite import REFERENCE


def read(text: str) -> c.Config:
    return c.parse(text.encode(), "cfg.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as e:
        read(text)
    assert e.value.exit_code == 2
    return str(e.value).splitlines()


# --- what is read ----------------------------------------------------------------------------------------------------


def test_reference_example() -> None:
    config = read(REFERENCE)
    command = (
        "srun -p pat_dev -n1 --gres gpu:1 python mnist.py "
        "--lr {lr} --batch-size {batch-size} --epochs {epochs} --gamma {gamma} --pavi"
    )
    assert config.task.template == command
    assert config.arg_names == ("epochs", "gamma", "lr", "batch-size")
    assert config.task.search_args == (
        Categorical("epochs", (Value(3, "3"), Value(5, "5"))),
        Categorical("gamma", (Value(0.7, "0.7"), Value(0.8, "0.8"))),
        Nested(
            (
                {"lr": Value(0.5, "0.5"), "batch-size": Value(512, "512")},
                {"lr": Value(1, "1"), "batch-size": Value(1024, "1024")},
            )
        ),
    )
    assert config.monitor == c.Monitor(scalars=("acc", "top1"), compare_name="compare_new")
    assert config.template.program == "srun"
    assert config.notes == ("cfg.yaml:19: `pavi` is read as `monitor`",)


def test_every_key() -> None:
    config = read(
        """
task:
  template: [python, t.py, "--lr={lr}", ""]
  search_args: [{type: Categorical, name: lr, value: [1e-3, 1]}]
  constraints: [lr < 1]
  reward_attribute: acc
search: {seed: 7, sampler: grid}
resources: {gpus: 2, gpu_mem: 1.5G, cpus: 4}
run: {max_parallel: 3, timeout_s: 2h, retries: 1, on_error: stop}
callbacks: {pre: echo {}, after: "echo '{\\"a\\": 1}'"}
env: {A: no, B: 010, C: , D: ~, E: "x y"}
monitor:
  reward_attribute: acc
  mode: min
  score: best
  scalars: [loss]
  regex: ['acc=(?P<acc>\\S+)']
  tensorboard: runs/
  compare: {name: n, id: i}
""".replace("pre: echo {}", "pre: 'echo {}'")
    )
    assert config.task.template == ("python", "t.py", "--lr={lr}", "")
    assert config.task.constraints == ("lr < 1",)
    assert config.search == c.Search(7, "grid")
    assert config.resources == c.Resources(2, 3 * 2**29, 4)
    assert config.run == c.Run(3, 7200.0, 1, "stop")
    assert config.callbacks == c.Callbacks("echo {}", "echo '{\"a\": 1}'")
    assert config.env == {"A": "no", "B": "010", "C": "", "D": "~", "E": "x y"}
    regex = (r"acc=(?P<acc>\S+)",)
    assert config.monitor == c.Monitor("acc", "min", ("loss", "acc"), regex, "runs/", "n", "i", score="best")
    assert config.reward_attribute == "acc"
    assert config.notes == ()


def test_only_the_command_is_required() -> None:
    config = read("task: {template: make train}\nrun:\nmonitor: {tensorboard: false}\n")
    assert config.task == c.Task("make train")
    assert (config.search, config.resources, config.run) == (c.Search(), c.Resources(), c.Run())
    assert (config.callbacks, config.env, config.monitor) == (c.Callbacks(), {}, c.Monitor(tensorboard=False))
    assert config.arg_names == () and config.reward_attribute is None and config.notes == ()


@pytest.mark.parametrize("empty", ["", "~", "[]", "null"])
def test_no_arguments_are_one_job(empty: str) -> None:
    assert read(f"task:\n  template: x\n  search_args: {empty}\n").task.search_args == ()


def test_an_empty_item_is_told_and_not_left_out() -> None:
    arg = "{type: Categorical, name: a, value: [null, 1]}"
    config = f"task: {{template: 'x {{a}}', search_args: [null, {arg}]}}"
    assert faults(config) == ["cfg.yaml:1:41: task.search_args[0]: holds nothing; write it, or remove it"]
    stages = "stages: [{name: a, task: {template: x}}, ~]"
    assert faults(stages) == ["cfg.yaml:1:42: stages[1]: holds nothing; write it, or remove it"]
    search = "{sampler: random, n_trials: 1, enqueue: [~]}"
    task = f"{{template: 'x {{a}}', search_args: [{arg}], constraints: [null]}}"
    others = f"task: {task}\nsearch: {search}\nmonitor: {{scalars: [~, b]}}"
    keys = ("task.constraints[0]", "search.enqueue[0]", "monitor.scalars[0]")
    assert [fault.partition(": ")[2] for fault in faults(others)] == [
        f"{key}: holds nothing; write it, or remove it" for key in keys
    ]


def test_arguments_that_are_no_list_leave_open_what_the_template_may_use() -> None:
    config = "task: {template: 'x {a}', search_args: {name: a}}\nsearch: {enqueue: [{a: 1}]}"
    assert faults(config) == ["cfg.yaml:1:40: task.search_args: must be a list, not a mapping"]


def test_task_reward_attribute_joins_the_scalars() -> None:
    config = read("task: {template: x, reward_attribute: acc}\nmonitor: {scalars: [loss]}")
    assert config.reward_attribute == "acc" and config.monitor.scalars == ("loss", "acc")


def test_byte_order_mark_and_line_ends() -> None:
    config = c.parse(b"\xef\xbb\xbftask:\r\n  template: x\r\n", "cfg.yaml")
    assert config.task.template == "x"
    assert faults("\ufefftask:\r\n  template: x\r\n  nope: 1\r\n") == [
        "cfg.yaml:3:3: task: unknown key 'nope' (valid: template, search_args, constraints, measures, reward_attribute)"
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("6G", 6 << 30), ("512M", 512 << 20), ("1073741824", 1 << 30), ("2 KiB", 2048), ("1.5g", 3 << 29)],
)
def test_gpu_mem(text: str, size: int) -> None:
    assert read(f"task: {{template: x}}\nresources: {{gpu_mem: {text}}}").resources.gpu_mem_bytes == size


@pytest.mark.parametrize(
    ("text", "s"), [("30", 30), ("1.5", 1.5), ("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400)]
)
def test_timeout(text: str, s: float) -> None:
    assert read(f"task: {{template: x}}\nrun: {{timeout_s: {text}}}").run.timeout_s == s


# --- what is said without being a fault ------------------------------------------------------------------------------


def test_note_for_a_template_without_arguments() -> None:
    config = read("task:\n  template: python t.py\n  search_args: [{type: Categorical, name: lr, value: [1]}]")
    assert config.notes == ("cfg.yaml:2: the template uses no argument: the script reads searchkit.params()",)


# --- faults of the whole file ----------------------------------------------------------------------------------------

FILES = {
    "": "1:1: the file is empty; it needs at least `task:` with its `template:`",
    "# nothing\n": "1:1: the file is empty; it needs at least `task:` with its `template:`",
    "~\n": "1:1: the file must be a mapping (key: value), not nothing",
    "\n- task\n": "2:1: the file must be a mapping (key: value), not a list",
    "task: {template: x\n": "2:1: not YAML: did not find expected ',' or '}' (while parsing a flow mapping)",
    "a: @": "1:4: not YAML: found character that cannot start any token (while scanning for the next token)",
    "task: {template: 'x": "1:20: not YAML: found unexpected end of stream (while scanning a quoted scalar)",
    "task: {template: x}\n---\na: 1": "2:1: a second document starts here; a config is one",
    "task:\n  template: a\x07b": r"2:14: the character '\x07' is not allowed in YAML",
    "task:\n  template: a\0b": r"2:14: the character '\x00' is not allowed in YAML",
    "[" * 100_000: "1:101: lists and mappings must not be nested deeper than 100",
    "task: &t {template: *t}": "1:21: *t stands inside of what it stands for",
    "task: &t {template: x, <<: *t}": "1:28: *t stands inside of what it stands for",
    "task: {template: *t}": "1:18: *t stands for nothing: no &t comes before it",
    "task: {template: x}\nenv: {A: 1,\n  B: 2, A: 3}": "3:9: the key 'A' is given twice (first on line 2)",
    "task: {template: x}\ntask: {template: y}": "2:1: the key 'task' is given twice (first on line 1)",
    "task: {template: x}\n? [a]\n: b": "2:3: a key must be a text, not a list",
    "task: {template: x}\nenv: {<<: 5}": "2:11: <<: must be a mapping, or a list of mappings, not 5",
    "task: !!python/object/new:os.system {}": "1:7: the tag !!python/object/new:os.system is not allowed",
    "task: {template: !!python/name:os.system x}": "1:18: the tag !!python/name:os.system is not allowed",
    "task: {template: !!binary aGk=}": "1:18: the tag !!binary is not allowed",
    "task: {template: !mine x}": "1:18: the tag !mine is not allowed",
    'task: {template: "a\\0b"}': "1:18: a NUL or half a surrogate pair can't be part of a text",
}


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_file_faults(text: str) -> None:
    assert faults(text) == ["cfg.yaml:" + FILES[text]]


def test_alias_bomb() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert faults(bomb) == ["cfg.yaml:6:4: aliases must not make more than 1,000,000 values of a file"]


# --- faults of one key -----------------------------------------------------------------------------------------------

KEYS = {
    "tsk: 1": [
        "1:1: missing key 'task'",
        "1:1: unknown key 'tsk' (did you mean task?)",
    ],
    "task:\nrun: {}": ["1:6: missing key 'task'"],
    "task: 5": ["1:7: task: must be a mapping (key: value), not 5"],
    "task: {constraints: []}": ["1:7: task: missing key 'template'"],
    "task: {template: }": ["1:18: task: missing key 'template'"],
    "task: {tempate: x}": [
        "1:7: task: missing key 'template'",
        "1:8: task: unknown key 'tempate' (did you mean template?)",
    ],
    "task: {template: ' '}": [
        "1:18: task.template: the command is empty; write the command that trains once, with {name} for each argument"
    ],
    "task: {template: []}": ["1:18: task.template: must be a list of at least one word, not an empty one"],
    "task: {template: {a: b}}": [
        "1:18: task.template: must be a command for the shell or a list of words, not a mapping"
    ],
    "task: {template: [a, [b]]}": ["1:22: task.template[1]: must be a text, not a list"],
    "task: {template: x, search_args: 5}": ["1:34: task.search_args: must be a list, not 5"],
    "task: {template: x, constraints: lr < 1}": ["1:34: task.constraints: must be a list, not 'lr < 1'"],
    "task: {template: x, constraints: [[1]]}": ["1:35: task.constraints[0]: must be a text, not a list"],
    "task: {template: x, constraints: [lr < 1]}": [
        "1:35: task.constraints[0]: 'lr' is not a declared argument (none is declared)"
    ],
    "task: {template: x, reward_attribute: [a]}": ["1:39: task.reward_attribute: must be a text, not a list"],
    "search: {seed: -1}": ["1:16: search.seed: must be a whole number of 0 or more, not -1"],
    "search: {seed: true}": ["1:16: search.seed: must be a whole number of 0 or more, not true"],
    "search: {sampler: gird}": ["1:19: search.sampler: unknown sampler 'gird' (did you mean grid?)"],
    "search: {sampler: [a]}": [
        "1:19: search.sampler: must be the name of a sampler, or a mapping of type and its options, not a list"
    ],
    "search: {sampler: {n_startup: 3}}": ["1:19: search.sampler: missing key 'type'"],
    "search: {sampler: {type: randm}}": ["1:26: search.sampler.type: unknown sampler 'randm' (did you mean random?)"],
    "search: {sampler: {type: random, n: 1}}": ["1:34: search.sampler: random has no option 'n'; it has none"],
    "search: {trials: 5}": ["1:10: search: unknown key 'trials' (did you mean n_trials?)"],
    "search: {n_trials: 0}": ["1:20: search.n_trials: must be a whole number of 1 or more, not 0"],
    "search: {time_budget_s: soon}": [
        "1:25: search.time_budget_s: must be seconds above 0, or a time such as 30s, 10m, 2h or 1d, not 'soon'"
    ],
    "search: {target: high}": ["1:18: search.target: must be a number, not 'high'"],
    "search: {target: 0.9}": [
        "1:18: search.target: needs a score: give task.reward_attribute or search.objectives",
    ],
    "search: {stop: [null]}": [
        "1:17: search.stop[0]: must be the name of a stopper, or a mapping of type and its options, not nothing"
    ],
    "search: {stop: medan}": ["1:16: search.stop: unknown stopper 'medan' (did you mean median?)"],
    "search: {stop: median}": ["1:16: search.stop: needs a score: give task.reward_attribute or search.objectives"],
    "search: {objectives: []}": ["1:22: search.objectives: must be a list of at least one objective, not an empty one"],
    "search: {objectives: acc}": ["1:22: search.objectives: must be a list of at least one objective, not 'acc'"],
    "search: {objectives: [{name: acc}]}": ["1:23: search.objectives[0]: missing key 'mode'"],
    "search: {objectives: [{name: a, mode: maxi, weight: 1}]}": [
        "1:39: search.objectives[0].mode: must be one of max, min, not 'maxi' (did you mean max?)",
        "1:45: search.objectives[0]: unknown key 'weight' (valid: name, mode, value)",
    ],
    "search: {objectives: [{name: a, mode: max}, {name: a, mode: min}]}": [
        "1:52: search.objectives[1].name: 'a' is an objective already"
    ],
    "search: {enqueue: {lr: 1}}": ["1:19: search.enqueue: must be a list, not a mapping"],
    "search: {enqueue: [1]}": ["1:20: search.enqueue[0]: must be a mapping (key: value), not 1"],
    "search: {enqueue: [{lr: 1}]}": ["1:21: search.enqueue[0]: 'lr' is not a declared argument (none is declared)"],
    "search: {warm_start: old}": ["1:22: search.warm_start: must be a mapping (key: value), not 'old'"],
    "search: {warm_start: {task: a, csv: b}}": [
        "1:22: search.warm_start: must have either `task`, another task, or `csv`, a file of the project"
    ],
    "search: {warm_start: {file: b}}": [
        "1:22: search.warm_start: must have either `task`, another task, or `csv`, a file of the project",
        "1:23: search.warm_start: unknown key 'file' (valid: task, csv)",
    ],
    "monitor: {mode: min}\nsearch: {objectives: [{name: acc, mode: max}]}": [
        "1:17: monitor.mode: is min, but search.objectives says max for acc; give one"
    ],
    "queue: 1": [
        "1:1: unknown key 'queue' (valid: task, search, resources, run, callbacks, env, monitor, pavi, stages)"
    ],
    "resources: {gpus: -1}": ["1:19: resources.gpus: must be a whole number of 0 or more, not -1"],
    "resources: {gpus: 0.5}": ["1:19: resources.gpus: must be a whole number of 0 or more, not 0.5"],
    "resources: {cpus: 0}": ["1:19: resources.cpus: must be a whole number of 1 or more, not 0"],
    "resources: {gpu_mem: 6X}": [
        "1:22: resources.gpu_mem: must be a number of bytes, or a size such as 6G or 512M, not '6X'"
    ],
    "resources: {gpu_mem: 0}": [
        "1:22: resources.gpu_mem: must be a number of bytes, or a size such as 6G or 512M, not 0"
    ],
    "run: {max_parallel: 0}": ["1:21: run.max_parallel: must be a whole number of 1 or more, not 0"],
    "run: {retries: -2}": ["1:16: run.retries: must be a whole number of 0 or more, not -2"],
    "run: {retries: [1]}": ["1:16: run.retries: must be a whole number of 0 or more, not a list"],
    "run: {timeout_s: 12:30}": [
        "1:18: run.timeout_s: must be seconds above 0, or a time such as 30s, 10m, 2h or 1d, not '12:30'"
    ],
    "run: {timeout_s: 0}": [
        "1:18: run.timeout_s: must be seconds above 0, or a time such as 30s, 10m, 2h or 1d, not 0"
    ],
    "run: {on_error: halt}": ["1:17: run.on_error: must be one of continue, stop, not 'halt'"],
    "run: {workers: 0}": ["1:16: run.workers: must be true, false, or a whole number of 1 or more, not 0"],
    "run: {workers: 1.5}": ["1:16: run.workers: must be true, false, or a whole number of 1 or more, not 1.5"],
    "run: {worker: 1}": ["1:7: run: unknown key 'worker' (did you mean workers?)"],
    "callbacks: {pre: ''}": ["1:18: callbacks.pre: must be a text, not ''"],
    "callbacks: {before: x}": ["1:13: callbacks: unknown key 'before' (valid: pre, after)"],
    "env: [A]": ["1:6: env: must be a mapping (key: value), not a list"],
    "env: {1A: x}": ["1:7: env.1A: must be the name of a variable: letters, digits and _"],
    "env: {A: {b: c}}": ["1:10: env.A: must be a text, not a mapping"],
    "env: {SEARCHKIT_JOB: 1}": ["1:7: env.SEARCHKIT_JOB: is reserved; every job is given its own SEARCHKIT_ variables"],
    "monitor: {mode: maximum}": ["1:17: monitor.mode: must be one of max, min, not 'maximum' (did you mean max?)"],
    "monitor: {scalars: acc}": ["1:20: monitor.scalars: must be a list, not 'acc'"],
    "monitor: {regex: ['(']}": [
        "1:19: monitor.regex[0]: '(' is no regular expression: missing ), unterminated subpattern at position 0"
    ],
    "monitor: {regex: ['acc=(.*)']}": [
        "1:19: monitor.regex[0]: must name a group for each number, such as acc=(?P<acc>[0-9.]+)"
    ],
    "monitor: {compare: x}": ["1:20: monitor.compare: must be a mapping (key: value), not 'x'"],
    "monitor: {compare: {url: x}}": ["1:21: monitor.compare: unknown key 'url' (valid: name, id)"],
    "monitor: {tensorboard: [a]}": ["1:24: monitor.tensorboard: must be true or false or a text, not a list"],
    "monitor: {}\npavi: {}": ["2:1: pavi: is another name for monitor; give one of the two"],
    "pavi: {scalar: [a]}": ["1:8: pavi: unknown key 'scalar' (did you mean scalars?)"],
}


@pytest.mark.parametrize("text", KEYS)
def test_key_faults(text: str) -> None:
    full = text if text.startswith(("task", "tsk")) else f"{text}\ntask: {{template: x}}"
    assert faults(full) == ["cfg.yaml:" + fault for fault in KEYS[text]]


def test_two_reward_attributes() -> None:
    text = "task:\n  template: x\n  reward_attribute: acc\nmonitor:\n  reward_attribute: loss\n"
    assert faults(text) == [
        "cfg.yaml:5:21: monitor.reward_attribute: is 'loss', but task.reward_attribute is 'acc'; give one"
    ]


# --- faults of several keys together ----------------------------------------------------------------------------------


def test_constraint_faults() -> None:
    start = (
        "task:\n  template: x {lr} {batch-size}\n  search_args:\n  - {type: Nested, value: [{lr: 1, batch-size: 2}]}\n"
    )
    assert read(start + '  constraints: ["lr * batch-size <= 512"]').task.constraints == ("lr * batch-size <= 512",)
    found = faults(start + "  constraints:\n  - lr @ 2\n  - lr < 2\n  - lr > batch-sise\n")
    assert found[0].startswith(
        "cfg.yaml:6:5: task.constraints[0]: column 4 of 'lr @ 2': '@' is not allowed; allowed: names"
    )
    assert found[1:] == [
        "cfg.yaml:8:5: task.constraints[2]: 'batch' is not a declared argument (did you mean batch-size?)",
        "cfg.yaml:8:5: task.constraints[2]: 'sise' is not a declared argument (valid: lr, batch-size)",
    ]


def test_all_faults_in_one_report() -> None:
    with pytest.raises(ConfigError) as e:
        read(
            "tsk: {}\ntask:\n  template: x {a}\n  search_args:\n  - {type: Categorical, name: b, value: []}\n"
            "run: {retries: x}\n"
        )
    assert [(f.line, f.col) for f in e.value.faults] == [(1, 1), (3, 15), (5, 31), (5, 41), (6, 16)]
    assert all(isinstance(f, Fault) for f in e.value.faults)


# --- the search ------------------------------------------------------------------------------------------------------

ARGS = """task:
  template: x {lr} {opt} {mom?--mom} {batch-size}
  reward_attribute: acc
  search_args:
  - {type: LogUniform, name: lr, low: 1e-4, high: 0.1}
  - {type: Categorical, name: opt, value: [sgd, adam]}
  - {type: Uniform, name: mom, low: 0, high: 1, step: 0.25, when: "opt == 'sgd'"}
  - {type: LogInt, name: batch-size, low: 16, high: 256, when: "lr > 1e-3"}
  constraints: [lr * batch-size <= 10]
""".replace(" {batch-size}", " {batch-size?--bs=}")


def test_every_key_of_a_search() -> None:
    config = read(
        ARGS
        + """
search:
  sampler: {type: tpe, n_startup: 5}
  n_trials: 100
  time_budget_s: 2h
  target: 0.95
  seed: 3
  objectives:
    - {name: acc, mode: max}
    - {name: tradeoff, mode: max, value: "acc - 0.1 * abs(macs / 300M - 1)"}
  stop: [{type: asha, min: 1, max: 27}, median, my.rules:Stop]
  enqueue: [{lr: 0.1, batch-size: 32}, {lr: "1e-2", opt: sgd, mom: 0.5}, {}]
  warm_start: {csv: results.csv}
"""
    )
    assert config.task.search_args[0] == Range("lr", "LogUniform", 1e-4, 0.1)
    assert config.task.search_args[2] == Range("mom", "Uniform", 0, 1, 0.25, "opt == 'sgd'")
    assert config.search == c.Search(
        seed=3,
        sampler="tpe",
        sampler_options={"n_startup": 5},
        n_trials=100,
        time_budget_s=7200.0,
        target=0.95,
        objectives=(
            Objective("acc", "max"),
            Objective("tradeoff", "max", "acc - 0.1 * abs(macs / 300M - 1)"),
        ),
        stop=(StopRule("asha", {"min": 1, "max": 27}), StopRule("median"), StopRule("my.rules:Stop")),
        enqueue=({"lr": 0.1, "batch-size": 32}, {"lr": "1e-2", "opt": "sgd", "mom": 0.5}, {}),
        warm_start=WarmStart(csv="results.csv"),
    )
    assert config.objectives == config.search.objectives
    assert config.notes == ("cfg.yaml:20: search.stop: judges by the first of the objectives, acc",)


@pytest.mark.parametrize(("written", "workers"), [("true", "auto"), ("false", None), ("3", 3), ("", None)])
def test_workers(written: str, workers: int | str | None) -> None:
    assert read(f"task: {{template: x}}\nrun: {{workers: {written}}}").run.workers == workers


def test_the_command_of_workers_holds_no_value() -> None:
    text = "task:\n  template: x {lr}\n  search_args: [{type: Int, name: lr, low: 1, high: 2}]\n"
    assert faults(text + "run: {workers: 2}") == [
        "cfg.yaml:2:15: task.template: {lr} has no value where run.workers starts one process for many trials; "
        "read trial.params"
    ]
    assert read(text + "run: {workers: false}").run.workers is None


def test_what_a_search_is_judged_by() -> None:
    config = read("task: {template: x, reward_attribute: loss}\nmonitor: {mode: min}")
    assert config.objectives == (Objective("loss", "min"),)
    config = read("task: {template: x}\nmonitor: {scalars: [x]}\nsearch: {objectives: [{name: loss, mode: min}]}")
    assert (config.reward_attribute, config.monitor.mode) == ("loss", "min")
    assert config.monitor.scalars == ("x", "loss")
    config = read("task: {template: x}\nsearch: {objectives: [{name: t, mode: min, value: a - b}]}")
    assert config.reward_attribute is None and config.objectives == (Objective("t", "min", "a - b"),)
    config = read("task: {template: x, reward_attribute: a}\nsearch: {objectives: [{name: b, mode: min}]}")
    assert (config.reward_attribute, config.monitor.mode) == ("a", "max")
    assert read("task: {template: x}").objectives == ()


@pytest.mark.parametrize("limit", ["n_trials: 3", "time_budget_s: 1h", "target: 0.5"])
def test_a_search_without_end_needs_one(limit: str) -> None:
    assert faults(ARGS + "search:\n  sampler: random\n") == [
        "cfg.yaml:11:12: search.sampler: random would go on for ever, as 'lr' has no end of values; "
        "give n_trials, time_budget_s or target"
    ]
    assert read(ARGS + f"search: {{sampler: random, {limit}}}").search.sampler == "random"
    finite = ARGS.replace("LogUniform, name: lr, low: 1e-4, high: 0.1", "Uniform, name: lr, low: 0, high: 1, step: 0.5")
    assert read(finite + "search: {sampler: tpe}").search.n_trials is None
    assert read(finite).search.sampler == "grid"


def test_scores_are_needed_to_learn_from() -> None:
    text = ARGS.replace("  reward_attribute: acc\n", "") + "search: {sampler: evolution, n_trials: 9}\n"
    needed = "evolution needs a score: give task.reward_attribute or search.objectives"
    assert faults(text) == [f"cfg.yaml:9:19: search.sampler: {needed}"]
    assert read(text.replace("evolution", "random")).objectives == ()
    assert read(text + "monitor: {reward_attribute: acc}").objectives == (Objective("acc", "max"),)


SEARCHES = {
    "search: {n_trials: 9}": [
        "5:30: search_args: the argument 'lr' is LogUniform, which has no end of values; choose a sampler other than "
        "grid (search.sampler: random)"
    ],
    "search: {sampler: {type: tpe, n_start: 3, n_startup: ten, group: 1}, n_trials: 9}": [
        "10:31: search.sampler: tpe has no option 'n_start'; its options are n_startup: 10, ",
        "10:54: search.sampler.n_startup: must be a whole number, not 'ten'",
        "10:66: search.sampler.group: must be true or false, not 1",
    ],
    "search: {sampler: random, n_trials: 9, stop: [{type: patience, steps: 3, min_delta: a}, {type: asha, min: .5}]}": [
        "10:64: search.stop[0]: patience has no option 'steps'; its options are patience: 10, min_delta: 0.0",
        "10:85: search.stop[0].min_delta: must be a number, not 'a'",
        "10:89: search.stop[1]: asha: min must be a whole number, 1 or more, not 0.5; give another value",
    ],
    "search: {sampler: random, n_trials: 9, stop: [asha, {type: asha, max: 9, min: 9}]}": [
        "10:47: search.stop[0]: asha: needs `min`, the first step whose value says something of the last; or",
        "10:53: search.stop[1]: asha: max (min is 9) must be a whole number, 10 or more, not 9; give another value",
    ],
    "search: {sampler: random, n_trials: 9, enqueue: [{lr: 1}, {opt: adam, mom: 0.5}, {lr: 0.1, batch-size: 200}]}": [
        "10:50: search.enqueue[0]: lr must be a number from 0.0001 to 0.1, not 1",
        "10:59: search.enqueue[1]: mom=0.5 can't be given here, where \"opt == 'sgd'\" does not hold",
        "10:82: search.enqueue[2]: does not meet the constraints",
    ],
    "search: {sampler: random, n_trials: 9, enqueue: [{batchsize: 1}]}": [
        "10:51: search.enqueue[0]: 'batchsize' is not a declared argument (did you mean batch-size?)"
    ],
}


@pytest.mark.parametrize("text", SEARCHES)
def test_search_faults(text: str) -> None:
    found = faults(ARGS + text)
    assert len(found) == len(SEARCHES[text])
    for line, expected in zip(found, SEARCHES[text], strict=True):
        assert line.startswith(f"cfg.yaml:{expected}")


STAGES = """
search: {sampler: tpe, n_trials: 20, seed: 5, stop: median, objectives: [{name: acc, mode: max}]}
stages:
- name: prepare
  task: {template: make data}
- name: a
  task:
    template: x {opt} {mom?--mom}
    search_args:
    - {type: Categorical, name: opt, value: [sgd, adam]}
    - {type: Uniform, name: mom, low: 0, high: 1, when: "opt == 'sgd'"}
  search: {enqueue: [{opt: sgd}]}
- name: b
  task:
    template: x {opt} {mom?--mom} {seed}
    search_args:
    - {type: Best, stage: a, number: 5}
    - {type: Int, name: seed, low: 1, high: 3}
  search: {sampler: grid, stop: []}
"""


def test_stages_inherit_the_search_but_not_its_points() -> None:
    _, a, b = (stage.config for stage in read(STAGES).stages)
    assert a.search == replace(b.search, sampler="tpe", stop=(StopRule("median"),), enqueue=({"opt": "sgd"},))
    assert (b.search.sampler, b.search.n_trials, b.search.seed, b.search.stop) == ("grid", 20, 5, ())
    assert a.objectives == b.objectives == (Objective("acc", "max"),)
    assert b.task.search_args[0] == Best(stage="a", number=5, args=("opt", "mom"))
    assert b.arg_names == ("opt", "mom", "seed")


BESTS = {  # what is replaced in STAGES, by what: faults
    ("stage: a", "stage: c"): ["17:27: stages[2].search_args[0].stage: 'c' must be a stage that runs before"],
    ("stage: a, ", ""): ["17:7: stages[2].search_args[0]: missing key 'stage'"],
    (", number: 5", ""): ["17:7: stages[2].search_args[0]: missing key 'number'"],
    ("number: 5", "number: 0"): ["17:38: stages[2].search_args[0].number: must be a whole number of 1 or more, not 0"],
    ("number: 5", "number: 5, args: [mom, lr]"): [
        "15:17: stages[2].task.template: {opt} is not a declared argument",
        "17:48: stages[2].search_args[0].args: 'mom' needs 'opt' beside it, on which it depends in that stage",
        "17:53: stages[2].search_args: 'lr' is declared, but the template never uses {lr}",
        "17:53: stages[2].search_args[0].args: the stage 'a' has no argument 'lr' (valid: opt, mom)",
    ],
    ("stage: a", "stage: prepare"): ["17:27: stages[2].search_args[0].stage: the stage 'prepare' has no arguments"],
    ("x {opt} {mom?--mom} {seed}", "x {opt} {mom} {seed}"): ["15:23: stages[2].task.template: {mom} may have no value"],
    ("name: seed", "name: opt"): [
        "15:35: stages[2].task.template: {seed} is not a declared argument",
        "18:25: stages[2].search_args[1]: 'opt' is declared twice (first on line 17)",
    ],
    (", stop: median, objectives: [{name: acc, mode: max}]", ", stop: []"): [
        "12:11: stages[1].search.sampler: tpe needs a score: give task.reward_attribute or search.objectives",
        "17:27: stages[2].search_args: the stage 'a' has neither reward_attribute nor objectives to tell its best jobs",
    ],
    ("search: {sampler: tpe", "search: {enqueue: [], sampler: tpe"): [
        "2:10: search.enqueue: belongs to the search of a stage, as its arguments do"
    ],
}


@pytest.mark.parametrize("change", BESTS)
def test_faults_of_the_best_of_a_stage(change: tuple[str, str]) -> None:
    assert change[0] in STAGES
    found = faults(STAGES.replace(*change, 1))
    for line, expected in itertools.zip_longest(found, BESTS[change], fillvalue="nothing"):
        assert line.startswith(f"cfg.yaml:{expected}")


def test_the_best_of_no_stage() -> None:
    found = faults("task:\n  template: x\n  search_args: [{type: Best, stage: a, number: 1}]")
    assert found == ["cfg.yaml:3:37: search_args[0].stage: this config has no stages, whose best jobs could be taken"]


# --- files -----------------------------------------------------------------------------------------------------------


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "cfg.yaml"
    path.write_bytes(REFERENCE.encode())
    config, raw = c.load(str(path))
    assert raw == REFERENCE.encode() and config.arg_names[0] == "epochs"
    path.write_text("task: {}")
    with pytest.raises(ConfigError) as e:
        c.load(str(path))
    assert str(e.value) == f"{path}:1:7: task: missing key 'template'"


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "val/loss", "Test Loss", "topErr", "top1_err", "PPL", "latency.ms"]
)
def test_a_loss_without_its_direction_is_asked_for(name: str) -> None:
    """By a search and by stoppers; a grid is told, and a task that began before it was asked goes on."""
    text = f"task: {{template: x}}\nmonitor: {{reward_attribute: '{name}'}}\n"
    grid = read(text)
    assert grid.monitor.mode == "max" and len(grid.notes) == 1 and "monitor.mode: missing" in grid.notes[0]
    for search in ("search: {sampler: random, n_trials: 3}", "search: {stop: {type: median}}"):
        (fault,) = faults(text + search)
        assert "2:29: monitor.mode: missing" in fault and "`mode: min` or `mode: max`" in fault
        begun = c.parse((text + search).encode(), "cfg.yaml", begun=shells.SH)
        assert begun.monitor.mode == "max" and "this task began with `max`" in begun.notes[0]
        for mode in ("max", "min"):
            said = read(text.replace("'}", f"', mode: {mode}}}") + search)
            assert said.monitor.mode == mode and not said.notes and not said.unclear_reward
    assert not read(text + f"search: {{objectives: [{{name: '{name}', mode: min}}]}}").notes


@pytest.mark.parametrize("name", ["acc", "mAP", "glossy", "terror", "lossless", "bbox_mAP_s"])
def test_other_names_are_not_asked_for(name: str) -> None:
    assert read(f"task: {{template: x, reward_attribute: {name}}}\nsearch: {{sampler: tpe, n_trials: 2}}").notes == ()


def test_the_direction_of_stages() -> None:
    text = "monitor: {reward_attribute: loss}\nstages:\n- {name: a, task: {template: x}}\n- name: b\n"
    text += "  task: {template: 'x {f}', search_args: [{type: Best, stage: a, number: 2, folder: f}]}\n"
    (fault,) = faults(text)
    assert fault.startswith("cfg.yaml:5:85: ") and "'loss' of the stage 'a' sounds as if less" in fault
    assert read(text.replace("loss}", "loss, mode: min}")).stages[1].config.monitor.mode == "min"


def test_load_unreadable(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    for path, why in ((missing, "No such file or directory"), (str(tmp_path), "Is a directory")):
        with pytest.raises(UsageError) as e:
            c.load(path)
        assert e.value.message == f"can't read the config {path}: {why}" and e.value.exit_code == 2
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("task: {template: é}".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.yaml is not UTF-8 \(at byte 17\)"):
        c.load(str(latin))


def test_yaml_is_only_imported_to_read() -> None:
    code = "import sys, searchkit.suite.config.read; sys.exit(not {'yaml', 'hashlib', 'json'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0


# --- laws ------------------------------------------------------------------------------------------------------------

PIECES = [
    "task:",
    " template: ",
    "x {a}",
    "search_args:",
    "- ",
    "type: Nested",
    "value: ",
    "[",
    "]",
    "{",
    "}",
    ",",
    ": ",
]
PIECES += ["\n", "  ", "&a ", "*a", "<<: ", "!!x ", "'", '"', "#", "|", "?", "~", "-1", "é", "\\0", "\t", "name: ", "a"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_a_config_or_has_faults(text: str) -> None:
    try:
        read(text.encode("utf-8", "replace").decode())
    except ConfigError as e:
        lines = text.count("\n") + 2 + sum(text.count(c) for c in "\r\x85\u2028\u2029")
        assert e.faults and all(1 <= f.line <= lines and f.col >= 1 and f.what for f in e.faults)
