"""What every test gets: an environment in which no outer job can be seen, and the folder of test data."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.nas import Trained

DATA = "SEARCHKIT_TEST_DATA"
SLOWEST = 20  # files in the table at the end of a run of more than these


def pytest_configure() -> None:
    """A test run in the background of a script, or by nohup, must see what one by hand sees: its children would inherit
    signals that are ignored, but not that a function takes them."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a trained supernet is slow, whatever it does with it: who comes first waits for the training. What is
    long is slow, too."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()) or item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table of the slowest files: seconds of their tests with the fixtures that these made, over all processes."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                name = report.nodeid.partition("::")[0]
                seconds[name] += report.duration
                tests[name] += report.when == "setup"
    if len(seconds) <= SLOWEST:
        return
    total = sum(seconds.values())
    terminalreporter.section(f"slowest {SLOWEST} of {len(seconds)} files, {total:.0f} s in all")
    terminalreporter.write_line(" seconds  share  tests  file")
    for name, taken in seconds.most_common(SLOWEST):
        terminalreporter.write_line(f"{taken:8.1f}  {taken / total:5.1%}  {tests[name]:5}  {name}")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test run inside a job (of searchkit, of torchrun, with some GPUs) must see what a test run by hand sees."""
    for name in list(os.environ):
        if name.startswith("SEARCHKIT_") and name != DATA:
            monkeypatch.delenv(name)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MASTER_PORT", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # set, it hides that something is not flushed


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets that some tests read; they are skipped without it."""
    folder = os.environ.get(DATA)
    if not folder:
        pytest.skip(f"{DATA} is not set: it names a folder with mnist/, cifar10/ and bccd/")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"{DATA} must name a folder, got {folder}")
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread, its global generator seeded."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy images and their annotations; nobody writes to it."""
    from tests.support import nas

    return nas.make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A supernet that has learnt a little on it; nobody writes to it."""
    from tests.support import nas

    return nas.make_trained(toy, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def toy_cls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy images in folders of their classes; nobody writes to it."""
    from tests.support import cls

    return cls.make_toy(tmp_path_factory.mktemp("toy_cls"))
