"""The texts of search-ctl, line by line those of the reference document; what they say is of searchkit.suite.facts."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from searchkit.suite.facts import command_text, reason, run_path
from searchkit.suite.store.records import FLOPS, MS, PARAMS, SHAPE, Row
from searchkit.suite.store.tasks import JobView, TaskView, stamp
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.store.ranking import JobScalars  # `show` ranks nothing, and spares itself the import

FENCE = "#" * 30
FAULTS = 3  # lines that could not be used which are told one by one


def all_tasks(views: list[TaskView]) -> str:
    lines = ["All tasks:"]
    for v in views:
        lines += [v.paths.name, f"        status: {v.status}", f"        update_time: {stamp(v.update_s)}"]
    return "\n".join(lines)


def header(task: TaskPaths, *more: str) -> str:
    return _header(task, f"pavi_compare_url: {task.jobs_tree}", *more)


def _header(task: TaskPaths, *more: str) -> str:
    lines = [FENCE, f"Task Name  : {task.name}", f"config file: {task.run_config}", *more, FENCE, "", "Jobs:"]
    return "\n".join(lines)


def stages(task: TaskPaths, views: dict[str, TaskView | None]) -> str:
    """A task of stages: how each is, then the jobs of all as `<stage>/<number>`."""
    lines = []
    for name, view in views.items():
        states = f" ({counted(view.jobs)})" if view and view.jobs else ""
        lines.append(f"stage {name}: {view.status if view else 'pending'}{states}")
    blocks = [job_block(v.paths, j, f"{name}/") for name, v in views.items() if v for j in v.jobs]
    return "\n".join([_header(task, *lines), *blocks])


def counted(jobs: list[JobView]) -> str:
    """`3 finished, 1 pruned`, in the order of the jobs."""
    return ", ".join(f"{n} {state}" for state, n in Counter(str(j.state) for j in jobs).items()) or "no job"


def job_block(task: TaskPaths, view: JobView, prefix: str = "") -> str:
    root = run_path(task, view)
    start = stamp(view.start_s) if view.start_s else "-"
    end = stamp(view.end_s) if view.end_s else "-"
    cause = reason(view)
    why = f"  exit_code     : {view.exit_code}\n" if view.exit_code else ""
    why += f"  reason        : {cause}\n" if cause else ""
    return (
        f"#Job Name: {prefix}{view.job.index}\n"
        f"  status        : {view.state.value}\n"
        f"{why}"
        f"  command       : {command_text(view.job.command)}\n"
        f"  run_path      : {root}\n"
        f"  log_path      : {root}/log\n"
        f"  start_time    : {start}\n"
        f"  end_time      : {end}\n"
        f"  callback_path : {root}/callback\n"
        f"  pavi_training_url : {root}/callback/scalars.jsonl\n"
    )


def scalar_block(task: TaskPaths, job: JobScalars, shown: tuple[str, ...]) -> str:
    lines = [
        f"#Job Name: {job.view.job.index}",
        f"  scalar_info   : {job.only(shown).series}",
        *([f"  scores        : {job.scores}"] if job.scores else []),
        f"  pavi_training_url : {run_path(task, job.view)}/callback/scalars.jsonl",
    ]
    for name, result in (("pre_callback_result", job.pre), ("after_callback_result", _with_scalars(job))):
        if result is not None:
            lines.append(f"  {name}:")
            width = max((len(k) for k in result), default=0)
            lines += [
                f"    {k:{width}}: {v!r}" if not isinstance(v, str) else f"    {k:{width}}: {v}"
                for k, v in result.items()
            ]
    return "\n".join(lines) + "\n"


def _with_scalars(job: JobScalars) -> dict[str, Any] | None:
    """What the `after` callback said, and as the reference has it, the last value of every scalar as `pavi_<name>`."""
    if job.after is None:
        return None
    last = {f"pavi_{name}": value for name, value in job.last().items()}
    return {**job.after, **{name: value for name, value in last.items() if name not in job.after}}


def scalar_blocks(task: TaskPaths, entries: list[JobScalars], shown: tuple[str, ...]) -> list[str]:
    """Jobs as blocks, each with the table of its records; records that are rows of their own as one table a run.
    `shown`: the scalars whose steps are shown (empty: all)."""
    out = []
    for is_row, group in itertools.groupby(entries, key=lambda j: j.row is not None):
        if is_row:
            out.append(record_table([(j.row, j.only(shown).series) for j in group if j.row]) + "\n")
            continue
        for job in group:
            out.append(scalar_block(task, job, shown))
            if job.records:
                series = ({name: {0: v} for name, v in row.values.items()} for row in job.records)
                out.append(record_table(list(zip(job.records, series, strict=True))) + "\n")
    return out


def undecodable(jobs: list[JobScalars]) -> str:
    """How many lines that jobs wrote could not be used; of the first few where they are, and what is wrong."""
    count, faults = sum(j.skipped for j in jobs), [(j.view.job.index, fault) for j in jobs for fault in j.faults]
    lines = [f"{count} undecodable line(s) were skipped:"]
    lines += [f"  job {n}, {fault}" for n, fault in faults[:FAULTS]]
    if count > len(lines) - 1:
        in_jobs = sum(j.skipped > 0 for j in jobs)
        lines.append(f"  … and {count - len(lines) + 1} more" + f", in {in_jobs} jobs in all" * (in_jobs > 1))
    return "\n".join(lines)


_HEADS = {"macs": "MACs (G)", "gaia": "FLOPs (G, gaia)", "ptflops": "FLOPs (G, ptflops)"}


def record_table(rows: list[tuple[Row, dict[str, dict[int, float]]]]) -> str:
    """One line a record: its name, its input, its cost in human units by the way it was counted, its numbers.

    Of a family of numbers (bbox_mAP, bbox_mAP_50, bbox_mAP_s …) the first name alone; --json and export have all.
    """
    every = list(dict.fromkeys(name for _, series in rows for name in series if name.startswith("metric.")))
    metrics = [name for name in every if not any(name.startswith(f"{prefix}_") for prefix in every)]
    ways = list(dict.fromkeys(row.convention for row, _ in rows if FLOPS in row.values))
    with_params = any(PARAMS in row.values for row, _ in rows)
    heads = ["row", SHAPE, *(_HEADS.get(way, f"overhead.flops (G, {way})") for way in ways)]
    with_ms = any(MS in row.values for row, _ in rows)
    heads += [*(["params (M)"] if with_params else []), *(["ms"] if with_ms else []), *metrics]
    lines = [heads]
    for row, series in rows:
        cells = [row.name, row.shape or "-"]
        cells += [_scaled(row.values.get(FLOPS), 1e9) if row.convention == way else "-" for way in ways]
        cells += [_scaled(row.values.get(PARAMS), 1e6)] if with_params else []
        cells += [_scaled(row.values.get(MS), 1)] if with_ms else []
        cells += [f"{series[name][0]:.6g}" if name in series else "-" for name in metrics]
        lines.append(cells)
    return aligned(lines)


def aligned(lines: list[list[str]]) -> str:
    """Rows of as many cells each as columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in lines
    )


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.2f}" if value >= unit else f"{value / unit:.3g}"
