"""The command line: one command a stage. Everything heavy is imported where it is used, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from vitrail import __version__
from vitrail.cli.completion import complete_model, complete_run, complete_slide
from vitrail.cli.console import PROGRAM, USAGE_ERROR, Console, Sections, commands
from vitrail.cli.exports import exports
from vitrail.cli.imports import imports
from vitrail.cli.options import (
    Changes,
    RunFolder,
    Scheduler,
    Shard,
    finish,
    progress,
    refuse,
    refuse_spread,
    say,
    serving,
    warn,
)
from vitrail.cli.upkeep import clean, config, man, status
from vitrail.core.interrupt import until_interrupted
from vitrail.errors import SettingsError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Sequence


app = typer.Typer(
    name=PROGRAM,
    cls=Sections,
    help="Train, check, apply and explain networks that find head and neck cancer in H&E whole slides.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StageName = Literal[
    "tiles", "split", "classifier", "segmenter", "predict", "explain", "check", "nuclei", "shift", "report"
]


@app.command()
def init(
    run: RunFolder,
    slides: Annotated[Optional[Path], typer.Option(help="The cohort: slides.csv.")] = None,  # noqa: UP045 - typer reads this at run time
    preset: Annotated[
        Literal["paper", "quick", "best"],
        typer.Option(help="paper: its settings; quick: for 2 CPU cores; best: five networks of each kind."),
    ] = "paper",
    earlier: Annotated[
        Optional[Path],  # noqa: UP045 - the same
        typer.Option(
            "--from",
            metavar="RUN",
            help="Take settings, cohort, split and tiles of this run.",
            autocompletion=complete_run,
        ),
    ] = None,
    corrected: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--with-corrections", help="Take its outlines as they were corrected and judged.")
    ] = False,
    changes: Changes = None,
) -> None:
    """Make a run folder: a commented study.toml, and the cohort's slides.csv."""
    from dataclasses import replace

    from vitrail.pipeline.run import new_run, run_from
    from vitrail.settings.user import read_user_defaults

    if earlier is not None:
        refuse("--slides", slides, f"the cohort is that of {earlier}", "Leave it out")
        finish(run_from(run, earlier, changes or (), corrected=corrected))
        return
    if slides is None:
        raise SettingsError("--slides", "is missing", "Name the cohort: --slides slides.csv")
    refuse("--with-corrections", corrected or None, "there is no earlier run", "Add --from RUN")
    own = read_user_defaults()
    outcome = new_run(run, slides, preset, [*own.changes(), *(changes or ())])
    lines = [f"your defaults of {own.path} are in it: {', '.join(own.changes())}"] if own.settings else []
    results = dict(outcome.results) | {"user_defaults": own.changes()}
    finish(replace(outcome, lines=[*lines, *outcome.lines], results=results))


@app.command()
def run(
    run: RunFolder,
    until: Annotated[StageName, typer.Option(help="Stop after this stage.")] = "report",
    dry: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--dry-run", help="Only say what would be made anew, why, and for how long.")
    ] = False,
    changes: Changes = None,
) -> None:
    """Bring all up to date: tiles, split, classifier, segmenter, predict, explain, check, nuclei, shift, report."""
    if dry:
        from vitrail.pipeline.plan import plan_run

        finish(plan_run(run, until, changes or ()))
        return
    _bring(run, until, changes)


@app.command()
def tiles(run: RunFolder, shard: Shard = None, scheduler: Scheduler = None, changes: Changes = None) -> None:
    """Cut the slides into tiles, masks and labels."""
    _bring(run, "tiles", changes, shard, scheduler)


@app.command()
def classifier(run: RunFolder, changes: Changes = None) -> None:
    """Train the classification network, and make what it needs."""
    _bring(run, "classifier", changes)


@app.command()
def segmenter(run: RunFolder, changes: Changes = None) -> None:
    """Train the segmentation network, and make what it needs."""
    _bring(run, "segmenter", changes)


@app.command()
def predict(  # noqa: PLR0913, PLR0917 - each is an option of the command
    what: Annotated[
        list[Path],
        typer.Argument(metavar="RUN | SLIDE...", help="A run; with a model any slides.", autocompletion=complete_slide),
    ],
    classifier: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time
        typer.Option(metavar="RUN/classifier", help="Model to apply.", autocompletion=complete_model),
    ] = None,
    segmenter: Annotated[
        Optional[Path],  # noqa: UP045 - the same
        typer.Option(metavar="RUN/segmenter", help="Model to apply.", autocompletion=complete_model),
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Where the slides' maps go.")] = None,  # noqa: UP045 - the same
    mpp: Annotated[Optional[float], typer.Option(help="um per level-0 pixel, whatever the headers say.")] = None,  # noqa: UP045 - the same
    background: Annotated[bool, typer.Option("--background", help="Classify background tiles, too.")] = False,  # noqa: FBT002 - a flag
    keep_artefacts: Annotated[bool, typer.Option("--keep-artefacts", help="Do not leave artefacts out.")] = False,  # noqa: FBT002 - a flag
    explain: Annotated[bool, typer.Option("--explain", help="Say why, too: Grad-CAM and HR-CAM of slides.")] = False,  # noqa: FBT002 - a flag
    nuclei: Annotated[bool, typer.Option("--nuclei", help="Measure every nucleus of slides, too.")] = False,  # noqa: FBT002 - a flag
    shard: Shard = None,
    scheduler: Scheduler = None,
    changes: Changes = None,
) -> None:
    """Apply both networks to a run's tiles and test slides; or map any slides with trained models.

    Of a run, what changes its predictions is kept in its study.toml.
    """
    flags = {"explained=true": explain, "background=true": background, "artefacts=false": keep_artefacts}
    all_changes = [*(changes or ()), *(f"predict.{change}" for change, is_set in flags.items() if is_set)]
    if classifier is None and segmenter is None:
        run = what[0]
        if len(what) > 1 or run.is_file():
            slides = "several slides" if len(what) > 1 else "a slide"
            raise SettingsError("vitrail predict", f"{slides}, but no model", "Add --classifier RUN/classifier")
        refuse("--out", out, f"the predictions of a run go to {run / 'predictions'}", "Leave it out")
        cure = "Set slides.mpp in study.toml, or give slides.csv a column mpp"
        refuse("--mpp", mpp, "a run has its own pixel sizes", cure)
        refuse("--nuclei", nuclei or None, "measures slides, not a run", f"Run: vitrail nuclei {run}")
        refuse_spread(shard, scheduler, "the predictions of a run are made by one process")
        _bring(run, "predict", all_changes)
        return
    from vitrail.distribute.choose import executor_for
    from vitrail.pipeline.predict_slides import Application, apply_models, settings_from
    from vitrail.settings.load import old_names

    folder, settings = out or Path("predictions"), settings_from(all_changes)
    warn(old_names(None, all_changes))
    job = Application(classifier=classifier, segmenter=segmenter, out=folder, mpp=mpp, nuclei=nuclei, settings=settings)
    reporting = progress()
    with executor_for(shard, scheduler, folder, reporting) as executor:
        finish(apply_models(what, job, reporting, executor))


@app.command()
def explain(  # noqa: PLR0917 - each is an option of the command
    what: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_PICTURE", help="A run; with --model a picture or a slide.", autocompletion=complete_slide
        ),
    ],
    model: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            metavar="RUN/NETWORK",
            help="Explain one picture with this model instead of a whole run.",
            autocompletion=complete_model,
        ),
    ] = None,
    corner: Annotated[
        Optional[str],  # noqa: UP045 - the same
        typer.Option("--at", metavar="X,Y", help="Of a slide: the tile's top left corner, in level-0 pixels."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - the same
        typer.Option("--out", "-o", help="Where the picture's explanation goes; here by default."),
    ] = None,
    methods: Annotated[
        Optional[list[str]],  # noqa: UP045 - the same
        typer.Option("--method", metavar="NAME", help="Of a picture: a method, such as gradcam; may be repeated."),
    ] = None,
    shard: Shard = None,
    scheduler: Scheduler = None,
    changes: Changes = None,
) -> None:
    """Explain every test tile of a run, and check the explanations; or explain one picture."""
    if model is None:
        cure = "Leave it out, or add --model RUN/classifier to explain one picture"
        refuse("--at", corner, "a run explains all its test tiles", cure)
        refuse("--out", out, f"the explanations of a run go to {what / 'explanations'}", cure)
        refuse("--method", methods or None, "a run is explained as its settings say", "Use --set explain.methods=...")
        _bring(what, "check", changes, shard, scheduler)
        return
    refuse_spread(shard, scheduler, "one picture is explained by one process")
    refuse("--set", changes or None, "one picture is explained as the model's run was set up", "Leave it out")
    from vitrail.pipeline.explain_image import explain_picture

    finish(explain_picture(model, what, corner, out or Path(), methods or ()))


@app.command()
def nuclei(  # noqa: PLR0917 - each is an option of the command
    what: Annotated[
        list[Path],
        typer.Argument(metavar="RUN | SLIDE...", help="A run, or any slides.", autocompletion=complete_slide),
    ],
    engine: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(metavar="NAME", help="What finds nuclei, such as classical: nuclei.engine of the settings."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Where the slides' nuclei go.")] = None,  # noqa: UP045 - the same
    mpp: Annotated[Optional[float], typer.Option(help="um per level-0 pixel, whatever the headers say.")] = None,  # noqa: UP045 - the same
    shard: Shard = None,
    scheduler: Scheduler = None,
    changes: Changes = None,
) -> None:
    """Ask which nuclei a run's networks look at; or find and measure every nucleus of any slides."""
    all_changes = [*(changes or ()), *([f"nuclei.engine={engine}"] if engine else [])]
    if what[0].is_dir():  # a slide is a file
        run = what[0]
        if len(what) > 1:
            raise SettingsError("vitrail nuclei", "a run, and more", "Give one run, or slides alone")
        refuse("--out", out, f"the nuclei of a run go to {run / 'nuclei'}", "Leave it out")
        cure = "Set slides.mpp in study.toml, or give slides.csv a column mpp"
        refuse("--mpp", mpp, "a run has its own pixel sizes", cure)
        refuse_spread(shard, scheduler, "the nuclei of a run are looked at by one process")
        from vitrail.pipeline.nuclei import explain_nuclei_of_run

        finish(explain_nuclei_of_run(run, all_changes, progress()))
        return
    from vitrail.distribute.choose import executor_for
    from vitrail.pipeline.nuclei_of_slides import NucleiJob, find_nuclei
    from vitrail.pipeline.predict_slides import settings_from
    from vitrail.settings.load import old_names

    warn(old_names(None, all_changes))
    job = NucleiJob(out=out or Path("nuclei"), mpp=mpp, settings=settings_from(all_changes))
    reporting = progress()
    with executor_for(shard, scheduler, job.out, reporting) as executor:
        finish(find_nuclei(what, job, reporting, executor))


@app.command()
def report(run: RunFolder, changes: Changes = None) -> None:
    """Write figures, tables, metrics.json and the page, and make what they need."""
    _bring(run, "report", changes)


@app.command()
def view(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="RUN | FOLDER | SLIDE...", help="What to look at.", autocompletion=complete_slide),
    ],
    maps: Annotated[Optional[Path], typer.Option(help="Where vitrail predict has put the slides' maps.")] = None,  # noqa: UP045 - typer reads this at run time
    mpp: Annotated[Optional[float], typer.Option(help="um per level-0 pixel, where headers lack it.")] = None,  # noqa: UP045 - the same
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page; without it, its address is said.")] = True,  # noqa: FBT002 - a flag
) -> None:
    """Look at slides, maps and explanations in the browser, on this computer alone (needs vitrail[viewer])."""
    from vitrail.viewer.launch import view

    view(what, maps=maps, mpp=mpp, port=port, browser=browser, say=serving(what))


@app.command()
def review(  # noqa: PLR0913, PLR0917 - each is an option of the command
    run: RunFolder,
    by: Annotated[
        Literal["disagreement", "uncertainty", "errors", "explanations", "labels", "random"],
        typer.Option(help="Which tiles come first."),
    ] = "uncertainty",
    cases: Annotated[int, typer.Option(help="How many.")] = 100,
    about: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option("--map", metavar="NETWORK_METHOD", help="Ask what this map, such as classifier_hrcam, lies on."),
    ] = None,
    split: Annotated[Literal["", "train", "validation", "test"], typer.Option(help="Of these patients alone.")] = "",
    queue: Annotated[Optional[str], typer.Option(help="Name of the queue; its order by default.")] = None,  # noqa: UP045 - the same
    export: Annotated[
        Optional[Path],  # noqa: UP045 - the same
        typer.Option(help="Write what was said as CSV into this folder, and end."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page; without it, its address is said.")] = True,  # noqa: FBT002 - a flag
) -> None:
    """Judge tiles or explanations one by one in the browser; what is said is kept in RUN/review."""
    from vitrail.pipeline.outcome import Outcome
    from vitrail.viewer.launch import export_queue, review

    if export is not None:
        files = export_queue(run, queue or by, export)
        finish(Outcome(lines=[*map(str, files)], results={"files": files}))
        return
    say = serving([run])
    review(run, by, queue or by, cases, about=about, split=split, port=port, browser=browser, say=say)


@app.command()
def search(
    run: RunFolder,
    scheduler: Scheduler = None,
    changes: Changes = None,
) -> None:
    """Find tile size and resolution by a grid search with cross-validation; test patients take no part."""
    from vitrail.pipeline.search import search_run

    finish(search_run(run, scheduler, changes or (), progress()))


for upkeep in (status, clean, config, man):
    app.command()(upkeep)
app.add_typer(imports, name="import")
app.add_typer(exports, name="export")


@app.command()
def doctor(
    forget: Annotated[bool, typer.Option("--forget", help="Forget which ways of computing were fastest here.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Say what this machine can do, measure it for ten seconds, and say what would make it faster."""
    from vitrail.pipeline.doctor import examine, forgotten
    from vitrail.pipeline.outcome import Outcome

    if forget:
        finish(Outcome(lines=[forgotten()]))
        return
    finish(Outcome(results=examine(say)))


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Where to put it.")] = Path("demo")) -> None:
    """Draw a synthetic cohort, study it from end to end, map a new slide, and export models and maps."""
    from vitrail.demo import demo_run

    finish(demo_run(folder, progress()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and leave with its exit code; an error of the user's is one line and exit code 2.

    After Ctrl-C the exit code is 130; `interrupt.until_interrupted`, around this, says the line. Of several processes
    that torchrun has started the first one runs the command, and the others help it to train.

    Parameters
    ----------
    arguments
        What stands behind `vitrail`; that of this process where it is None.
    """
    words = sys.argv[1:] if arguments is None else [*arguments]
    with Console() as speaker:
        code, error = 2, None
        try:
            if "--json" in words:  # nothing is understood yet, and that may go wrong
                speaker.answer_in_json()
            run = partial(_run, speaker, words)
            if _is_one_of_several():
                speaker.is_helper = os.environ["RANK"] != "0"
                from vitrail.training.torchrun import run_together

                run_together(run)
            else:
                run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except (VitrailError, OSError) as mendable:
            error = mendable
        except Exception as fault:
            if speaker.answers_in_json:
                speaker.answer(1, fault)
            raise
        speaker.answer(code, error)
    sys.exit(code)


def _run(speaker: Console, words: list[str]) -> None:
    """Run the command that some words name, and leave with its exit code."""
    from vitrail.settings.user import read_user_defaults

    speaker.defaults = {} if words[:1] == ["config"] else read_user_defaults().commands
    if speaker.defaults.get("quiet"):
        speaker.be_quiet()
    if speaker.defaults.get("verbose"):
        speaker.be_verbose()
    try:
        code = commands(app).main(args=words, prog_name=PROGRAM, standalone_mode=False, default_map=speaker.defaults)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined] # click's: it is the help
        else:
            speaker.answer(2, error)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _is_one_of_several() -> bool:
    """Tell whether torchrun, or what speaks as it does, has started several processes of this command."""
    names = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return names <= os.environ.keys() and os.environ["WORLD_SIZE"] != "1"


def _bring(
    folder: Path, until: str, changes: list[str] | None, shard: str | None = None, scheduler: str | None = None
) -> None:
    from vitrail.distribute.choose import executor_for
    from vitrail.pipeline.run import bring_run
    from vitrail.stage import open_run

    open_run(folder)  # else a folder of this name would be made
    reporting = progress()
    with executor_for(shard, scheduler, folder, reporting) as executor:
        finish(bring_run(folder, until, changes or (), reporting, executor))


def _version(is_asked: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value
    if is_asked:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")]


@app.callback()
def _vitrail(version: Version = False) -> None:  # noqa: FBT002 - a flag
    pass


if __name__ == "__main__":
    until_interrupted(main)
