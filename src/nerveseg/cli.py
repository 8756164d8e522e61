"""The command line, `nerveseg`. Each command only calls a function of another module."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nerveseg import params as parameters
from nerveseg import paths, profiles
from nerveseg.console import console, readable_errors
from nerveseg.prediction import spacing

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
params_app = typer.Typer(
    no_args_is_help=True, help="Check and show params.yaml, which has everything that changes a result."
)
profile_app = typer.Typer(no_args_is_help=True, help="Overlays of params.yaml.")
app.add_typer(params_app, name="params")
app.add_typer(profile_app, name="profile")

ParamsFile = Annotated[Path, typer.Argument(help="A params file.")]


@app.callback()
def nerveseg() -> None:
    """Segment nerves in ultrasound frames. To run the pipeline itself, use `dvc repro`."""


@params_app.command()
def check(file: ParamsFile = paths.PARAMS) -> None:
    """Check a params file: types, ranges, unknown keys."""
    with readable_errors():
        parameters.load(file)
        console.print(f"{file} is valid.")


@params_app.command()
def show(file: ParamsFile = paths.PARAMS) -> None:
    """Print every parameter with its value, one per line."""
    with readable_errors():
        for name, value in parameters.flatten(parameters.load(file).model_dump(by_alias=True)).items():
            typer.echo(f"{name} = {json.dumps(value)}")


@params_app.command()
def schema() -> None:
    """Print the JSON schema of params.yaml, for editors."""
    typer.echo(json.dumps(parameters.Params.model_json_schema(), indent=2))


@profile_app.command()
def apply(
    profile: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A profile in profiles/, or a file.")],
) -> None:
    """Merge a profile into params.yaml and print what changed."""
    with readable_errors():
        changes = profiles.apply(profiles.find(profile))
        for name, (former, new) in changes.items():
            typer.echo(f"{name}: {json.dumps(former)} -> {json.dumps(new)}")
        console.print("Run `dvc repro`." if changes else "params.yaml already has the values of the profile.")


@profile_app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Hydrogen Torch's YAML of an experiment, or nnU-Net's plans.json or dataset.json."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The profile; default: profiles/NAME.yaml of the file.")] = None,
) -> None:
    """Make a profile of the settings of another system, and say what has no counterpart."""
    from nerveseg.importing.run import run

    with readable_errors():
        run(file, out)


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="Version number of nerve-segmentation.")],
    folder: Annotated[Path | None, typer.Argument(help="A new folder; default: next to this repository.")] = None,
) -> None:
    """Restore everything a registered version was made from into a clean clone: code, params, lock and data."""
    from nerveseg.workspace.reproduce import reproduce as restore  # it imports mlflow

    with readable_errors():
        restore(version, folder or Path.cwd().with_name(f"{Path.cwd().name}-version-{version}"))


@app.command()
def verify(
    version: Annotated[str, typer.Argument(help="Version number or alias of nerve-segmentation.")],
) -> None:
    """Run the checks of a delivery on a version: hashes, lineage, masks of its smoke frames, and its export."""
    from nerveseg.registry.verify import verify as check

    with readable_errors():
        check(version)


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A version number, an alias, a run id, a delivered bundle, or a predictions.parquet of evaluate.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to compare with A; like A.")],
    out: Annotated[Path, typer.Option(help="Folder of the page and the tables.")] = paths.COMPARISON,
) -> None:
    """Compare two models on the same frames, frame by frame: paired differences, and the outlines of both."""
    from nerveseg.compare.run import compare as run  # it imports mlflow

    with readable_errors():
        run(a, b, out)


@app.command()
def crossval(
    folds: Annotated[int | None, typer.Option(min=3, help="Number of folds; default: split.folds, or 5.")] = None,
    leakage: Annotated[
        bool,
        typer.Option("--leakage", help="Train random folds too, and report by how much their scores are too good."),
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Register the networks of all folds as one model.")
    ] = False,
) -> None:
    """Test on every subject: train and evaluate fold by fold, as DVC experiments, and pool the metrics."""
    from nerveseg.crossval.run import crossval as run  # it imports mlflow

    with readable_errors():
        run(folds, leakage=leakage, ensemble=ensemble)


@app.command()
def table(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="A YAML file: configurations, seeds, folds.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the table; default: tables/NAME of the file.")] = None,
) -> None:
    """Compare configurations: train each with every seed on every fold of subjects, once, and tabulate the scores.

    The table has means by frame and by subject with intervals, and paired differences to the first configuration, as
    Markdown, CSV and LaTeX. After an interruption, the same command continues.
    """
    from nerveseg.trials.table import table as run  # it imports mlflow

    with readable_errors():
        run(matrix, out)


@app.command()
def search(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Space, trials and folds of the search.")] = (
        Path("search.yaml")
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Processes that train trials at the same time.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database that several machines share; default: search.db in this folder."),
    ] = None,
) -> None:
    """Search for better parameters on folds of subjects, never the test subjects, and write the best as a profile.

    Each trial is a run in MLflow. After an interruption, the same command continues; a second one joins in. The result
    says how much of the gain is selection.
    """
    from nerveseg.trials.search import search as run  # it imports mlflow and optuna

    with readable_errors():
        run(file, jobs, storage)


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Frames: PNG, JPEG, TIFF or BMP with 8 bits per sample.")],
    model: Annotated[str, typer.Option(help="An alias, a version number or a run id.")] = "champion",
    spacing_mm: Annotated[
        str | None,
        typer.Option(metavar="MM", help="mm per pixel, for areas in mm²: one number, or '0.08 0.1', height and width."),
    ] = None,
) -> None:
    """Write the mask and overlay of each frame next to it, and say which masks to check."""
    from nerveseg.prediction.files import predict_files  # it imports mlflow

    with readable_errors():
        predict_files(files, model, None if spacing_mm is None else spacing.parse(spacing_mm))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs credentials.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    delivery: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder or s3://bucket/prefix; default: delivery.uri.")
    ] = None,
) -> None:
    """Serve the delivered champion over HTTP: an API and a web page to drop frames on."""
    from nerveseg.serving.server import serve as run

    with readable_errors():
        run(host, port, delivery)
