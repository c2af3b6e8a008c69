"""The command line. It only parses arguments."""

import contextlib
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="bilevel",
    help="Bilevel optimization: list, run and compare the algorithms.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        versions = [f"{name} {metadata.version(name)}" for name in ("bilevel", "jax", "equinox", "optax", "numpy")]
        typer.echo(", ".join([*versions, f"Python {platform.python_version()}"]))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the versions, and exit.")
    ] = False,
) -> None: ...


Task = Annotated[str, typer.Argument(help="A task's name (see `bilevel list`), or FILE.py:NAME.")]
_LAST_SEED = 2**32 - 1  # of a larger one, JAX would take the last 32 bits
_MOST_DEVICES = 256  # each has threads of its own
_SOLVER = "A name (see `bilevel list`) or FILE.py:NAME, with or without [SETTING=VALUE,...]."
Checkpoint = Annotated[
    pathlib.Path | None,
    typer.Option(help="A directory to save progress in. The same command resumes from it after any interruption."),
]
_GO_ON = "{} holds the finished work; the same command resumes from there."
Suggest = Annotated[bool, typer.Option("--suggest", help="Settings from measured constants and a short trial.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")]


def _console() -> Any:
    from rich.console import Console

    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if fits else 100)


def _say(text: str) -> None:
    """Print to standard error."""
    from bilevel._output.terminal import visible

    typer.echo(visible(text), err=True)


def _make_devices(count: int) -> None:
    """Make a CPU into so many devices. Call it before JAX initializes its devices."""
    import jax

    with contextlib.suppress(RuntimeError):  # it has
        jax.config.update("jax_num_cpu_devices", count)


def _check_devices(wanted: int | None) -> None:
    """Refuse another number than that of the devices that there are."""
    import jax

    if wanted is not None and wanted != (found := jax.device_count()):
        raise ValueError(
            f"devices: got {wanted}, but JAX has {found} ({jax.default_backend()}), and --devices only divides a CPU; "
            "leave it out to use all of them"
        )


@contextlib.contextmanager
def _signs_on(console: Any) -> Iterator[None]:
    """Print each `DiagnosisWarning` in one paragraph. Other warnings are shown as ever."""
    import warnings

    from bilevel.run._signs import DiagnosisWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", DiagnosisWarning)
        show = warnings.showwarning

        def shown(message: Any, category: Any, *where: Any, **options: Any) -> None:
            if issubclass(category, DiagnosisWarning):
                console.print(f"Warning: {message}", markup=False, soft_wrap=True)
            else:
                show(message, category, *where, **options)

        warnings.showwarning = shown
        yield


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """Report the package's errors about bad input in one line, with exit code 2."""
    from bilevel.datasets import DatasetError
    from bilevel.run._checkpoint import CheckpointError

    try:
        yield
    except (ValueError, TypeError, OSError, DatasetError, CheckpointError) as error:
        _say(f"Error: {' '.join(str(error).split())}")
        raise typer.Exit(2) from None


@app.command("list")
def list_() -> None:
    """Show the solvers, tasks and data sets."""
    from bilevel.compare.tables import catalog

    console = _console()
    for table in catalog():
        console.print(table)


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="Fetch or read this data set, and show its card.")] = None,
) -> None:
    """List the data sets, or fetch one."""
    from bilevel import datasets
    from bilevel.compare import tables

    console = _console()
    if name is None:
        console.print(tables.datasets_table())
        return
    with _readable_errors():
        card = datasets.read(name).card
    console.print(tables.card_table(card))


@app.command()
def run(
    task: Task,
    solver: Annotated[str, typer.Option(help=_SOLVER)],
    set_: Set = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Outer steps; default: as in the settings.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=_LAST_SEED, help="Seed of the task and of the run.")] = 0,
    suggest: Suggest = False,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="A directory for history.csv, summary.json and solution.npz.")
    ] = None,
    checkpoint: Checkpoint = None,
    devices: Annotated[
        int | None, typer.Option(min=1, max=_MOST_DEVICES, help="Make a CPU into so many devices.")
    ] = None,
) -> None:
    """Run one solver on a task. --set takes the solver's settings and the task's arguments.

    Each of JAX's devices computes with an equal part of every batch, where their number divides it.
    """
    from bilevel._output.files import make_directory
    from bilevel.compare import _compare as compare
    from bilevel.compare import entrants, files, records, settings, tables
    from bilevel.compare.devices import split
    from bilevel.solvers._text import assignments

    console = _console()
    if devices is not None:
        _make_devices(devices)
    with _readable_errors():
        _check_devices(devices)
        entrant, made, arguments = entrants.alone(task, solver, assignments("set", set_ or ()), seed, suggest)
        made = split(made, must=(devices or 1) > 1)
        steps = compare.steps_of({entrant.asked.label: entrant}, task, steps)[entrant.asked.label]
        if out is not None:
            make_directory(out)
        if entrant.suggestion is not None:
            console.print(str(entrant.suggestion), markup=False, soft_wrap=True)
        options: Any = dict(progress=None, checkpoint=checkpoint, signs=True)
        try:
            with _signs_on(console):
                solution = compare.run(made, entrant.solver, seed=seed, steps=steps, **options)
        except KeyboardInterrupt as interruption:
            if not hasattr(interruption, "solution"):
                raise
            solution = interruption.solution  # pyright: ignore[reportAttributeAccessIssue]
    record = records.Run.of(entrant.asked.label, seed, solution)
    console.print(tables.run_table(record, task))
    if out is not None:
        description = settings.describe(entrant.solver)
        with _readable_errors():
            files.write_run(out, record, solution, task=task, arguments=arguments, solver=description)
        console.print(f"Written to {out}: history.csv, summary.json, solution.npz", soft_wrap=True)
    if record.message:
        _say(f"{record.result}: {record.message}")
        if record.result == "interrupted" and checkpoint is not None:
            _say(_GO_ON.format(checkpoint))
        raise typer.Exit(130 if record.result == "interrupted" else 1)


@app.command()
def compare(
    task: Task,
    solvers: Annotated[
        str | None,
        typer.Option(help="As in `run`, separated by commas; several values of a setting are several solvers."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="The number of draws of split, noise and run.")] = 10,
    steps: Annotated[int | None, typer.Option(min=1, help="Outer steps of each; default: as in the settings.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Instead of --steps: seconds of stepping per run.")] = None,
    untimed: Annotated[
        bool,
        typer.Option("--untimed", help="Run all seeds of a solver at once, on all devices; do not compare time."),
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Add rows of random search (and Optuna) over a few numbers of x.")
    ] = False,
    checkpoint: Checkpoint = None,
    suggest: Suggest = False,
    set_: Set = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Default: runs/compare-TASK.")] = None,
    devices: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST_DEVICES, help="With --untimed: make a CPU into so many; default: one per core."),
    ] = None,
) -> None:
    """Compare solvers on the same seeds of a task. --set takes the task's arguments."""
    from bilevel.compare import _compare as compare
    from bilevel.compare import tables
    from bilevel.solvers._text import assignments

    console = _console()
    out = pathlib.Path(f"runs/compare-{pathlib.Path(task).name.replace(':', '-')}") if out is None else out
    if untimed:
        _make_devices(devices or os.cpu_count() or 1)
    with _readable_errors():
        if devices is not None and not untimed:
            raise ValueError(f"devices: got {devices}, but times are compared on one device; add --untimed")
        _check_devices(devices)
        comparison = compare.compare(
            task,
            solvers,
            seeds=seeds,
            steps=steps,
            seconds=seconds,
            task_settings=assignments("set", set_ or ()),
            suggested=suggest,
            untimed=untimed,
            search=search,
            checkpoint=checkpoint,
            out=out,
            console=console,
        )
    console.print(tables.results_table(comparison))
    console.print(tables.cost_table(comparison))
    for note in tables.notes(comparison):
        console.print(note, markup=False)
    files = "report.html, results.csv, summary.json, curves.png" + (", suggestions.txt" if suggest else "")
    console.print(f"Written to {out}: {files}", soft_wrap=True)
    if comparison.interrupted:
        advice = "Interrupted. With --checkpoint DIR, the same command resumes where it was interrupted."
        _say(advice if checkpoint is None else _GO_ON.format(checkpoint))
        raise typer.Exit(130)


@app.command()
def reproduce(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Entries, such as stocbio-fig4.")] = None,
    size: Annotated[
        str, typer.Option(help="smoke (seconds), laptop (minutes to hours), workstation, or paper.")
    ] = "laptop",
    all_: Annotated[bool, typer.Option("--all", help="All entries that have this size.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Reuse what an earlier call finished in --out or --keep.")
    ] = False,
    first_seed: Annotated[int, typer.Option(min=0, max=_LAST_SEED, help="Other seeds than those from 0 on.")] = 0,
    out: Annotated[pathlib.Path | None, typer.Option(help="Default: runs/reproduce-SIZE.")] = None,
    keep: Annotated[pathlib.Path | None, typer.Option(help="A directory for one small file of runs per entry.")] = None,
    from_kept: Annotated[
        pathlib.Path | None, typer.Option(help="Run nothing: judge the runs that --keep has put there.")
    ] = None,
    project: Annotated[bool, typer.Option("--project", help="Only time three steps of each curve.")] = False,
) -> None:
    """Run the papers' experiments and check their claims. Without an ID, list them."""
    from bilevel import papers
    from bilevel.papers.page import entries_table

    console = _console()
    if not ids and not all_:
        console.print(entries_table(papers.ENTRIES.values()))
        return
    out = pathlib.Path(f"runs/reproduce-{size}") if out is None else out
    with _readable_errors():
        chosen = [name for name, entry in papers.ENTRIES.items() if size in entry.sizes] if all_ else list(ids or ())
        if project:
            for name, curves in papers.projections(chosen, size=size, console=console).items():
                for label, curve in curves.items():
                    text = f"{curve.per_step:.2g} s per step, {curve.seconds / 60:.1f} min in all"
                    console.print(f"    {name}  {label}: {text}", markup=False, soft_wrap=True)
            return
        if from_kept is not None:
            papers.from_kept(chosen, size=size, folder=from_kept, console=console)
            return
        try:
            outcomes = papers.reproduce(
                chosen, size=size, out=out, resume=resume, first_seed=first_seed, keep=keep, console=console
            )
        except KeyboardInterrupt:
            _say(f"Interrupted: {out} holds the finished runs; add --resume to continue.")
            raise typer.Exit(130) from None
    console.print(f"Written to {out}: README.md with all entries, and one folder per entry", soft_wrap=True)
    if any(outcome.trouble for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def clean(
    table: Annotated[pathlib.Path, typer.Argument(help="CSV (also .gz), Parquet, Excel (.xlsx) or JSON lines.")],
    label: Annotated[str, typer.Option(help="The column of the labels.")],
    out: Annotated[pathlib.Path, typer.Option(help="A directory; existing files in it are not overwritten.")],
    apply: Annotated[
        pathlib.Path | None,
        typer.Option(help="The decisions that the report exported: only write the table with these labels."),
    ] = None,
    trusted: Annotated[pathlib.Path | None, typer.Option(help="A table of rows whose labels are verified.")] = None,
    trusted_column: Annotated[
        str | None, typer.Option(help="Instead of --trusted: a column that says which rows are verified (yes or no).")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="COLUMN=KIND",
            help="Treat a column as numeric, date, boolean, categorical, text, image or ignored; may be repeated. "
            "'numeric:,' has decimal commas; 'date:day first' or 'date:%d/%m/%Y' says how dates are written.",
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Words for a missing cell, instead of NA, N/A, NULL, ...; may be repeated."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of CSV and JSON lines, such as cp1252; default: UTF-8.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Learn with a hidden layer of this width.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=_LAST_SEED, help="Seed of all random choices.")] = 0,
) -> None:
    """Find the doubtful labels of a table. Adds a weight, a rank and a proposed label to each row; writes a report."""
    from bilevel import clean as tables
    from bilevel._output.terminal import visible

    console = _console()
    if apply is not None:
        learning = {"trusted": trusted, "trusted-column": trusted_column, "kind": kind, "missing": missing}
        learning |= {"hidden": hidden, "seed": seed or None}
        with _readable_errors():
            surplus = [f"--{name}" for name, value in learning.items() if value is not None]
            if surplus:
                raise ValueError(f"apply: nothing is learned with --apply; leave out {', '.join(surplus)}")
            applied = tables.apply_decisions(table, label=label, decisions=apply, out=out, encoding=encoding)
        console.print(f"{applied.changed:,} labels changed, {applied.kept:,} kept as given.", soft_wrap=True)
        console.print(f"Written to {visible(str(applied.path))}", markup=False, soft_wrap=True)
        return
    with _readable_errors():
        kinds = tables.parse_kinds(kind or ())
        cleaned = tables.clean_table(
            table,
            label=label,
            out=out,
            trusted=trusted,
            trusted_column=trusted_column,
            kinds=kinds,
            missing=missing,
            encoding=encoding,
            hidden=hidden,
            seed=seed,
            console=console,
        )
    for note in cleaned.notes:
        console.print(f"Note: {note}", markup=False)
    rows, other = len(cleaned.weights), len(cleaned.suspects)
    console.print(f"Another label is proposed for {other:,} of {rows:,} rows.", soft_wrap=True)
    files = visible(", ".join(sorted(cleaned.files.values())))  # their suffix is the table's
    console.print(f"Written to {out}: {files}", markup=False, soft_wrap=True)
