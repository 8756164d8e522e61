"""Compares what a recipe and a plain loop score on people whom neither has seen, fold by fold.

Subjects are divided into folds. For each fold, both sides train on the same people and are scored on the same others,
frame by frame, at the frames' own size. Differences are paired by frame; their 95 % intervals resample subjects.

    python -m benchmarks.quality                                    the built-in phantom
    python -m benchmarks.quality DATASET.zip --size 192x256 --seeds 70,71,72
    python -m benchmarks.quality DATASET.zip --set train.augmentation=strong --against "train.augmentation=soft"
    python -m benchmarks.quality DATASET.zip --ablation benchmarks/ablation.yaml

Fold 0 is for the final comparison; an ablation leaves it out. What a side scored with a seed on a fold is
kept in `--cache`, by a digest of data, parameters and code, and so is each network: a run that was killed goes on, and
a comparison of what is there trains nothing. Networks and scores of real frames stay there; only numbers are printed.
"""

import argparse
import contextlib
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from benchmarks import plain_loop
from benchmarks.command_line import parser_of
from nerveseg import package, paths
from nerveseg.arrays import Floats
from nerveseg.console import console, readable_errors
from nerveseg.data import folds
from nerveseg.data.augment import Augmentation
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import figures, inference, metrics
from nerveseg.evaluation.bootstrap import Estimate, SubjectBootstrap
from nerveseg.files import read_json, replacing, replacing_folder, sha256, write_json
from nerveseg.model import network
from nerveseg.model.device import device_name
from nerveseg.model.inference import Segmenter
from nerveseg.model.spec import ModelSpec, NetworkSpec, usable_flips
from nerveseg.params import Params, TrainParams, parse, read_yaml, replaced
from nerveseg.phantom import dataset as phantom
from nerveseg.settings import settings
from nerveseg.stages import split
from nerveseg.training import trainer
from nerveseg.training.progress import print_epoch
from nerveseg.training.recipes import resolve
from nerveseg.training.timing import Timings

TRAINS = ("src/nerveseg/training", "src/nerveseg/model", "src/nerveseg/data/augment.py")  # code that changes a network
PLAIN = "plain"
Overrides = Mapping[str, Any]  # of params.yaml, by dotted names


@dataclass(frozen=True)
class Scored:
    """What a side scored on the test frames of a fold.

    Attributes:
        frames: the columns image, subject, dice, iou.
        minutes: that training took.
        cpu_minutes: of all cores; less noisy on a machine that is shared.
    """

    frames: pd.DataFrame
    minutes: float
    cpu_minutes: float


class Side(Protocol):
    """One of the two that are compared."""

    name: str

    def score(self, store: FrameStore, seed: int, cache: Path) -> Scored:
        """Trains on the fold's training frames unless the cache has the result, and scores its test frames."""


class Recipe:
    """A training by nerveseg."""

    def __init__(self, name: str, params: Params, weights: str | None) -> None:
        """Args: weights: a file with the encoder's weights; None: as params say."""
        self.name = name
        self._params = params
        self._weights = weights or params.model.encoder_weights

    def score(self, store: FrameStore, seed: int, cache: Path) -> Scored:
        model = self._params.model.model_dump(exclude={"encoder_weights"})
        if model["threshold"] == "validation":
            raise NervesegError("model.threshold: the folds have no validation frames to choose it on; set a number.")
        trained = Augmentation(resolve(self._params.train).augmentation).flips
        spec = ModelSpec(**{**model, "flips": usable_flips(model["flips"], trained)})
        kept = self._network(store, seed, cache)
        scores = kept / f"{_digest(spec.model_dump_json(), package.running([*TRAINS, _METRICS]))}.csv"
        if not scores.exists():
            segmenter = Segmenter(network.rebuild(spec, kept), spec, device_name(settings().device))
            found = []
            for row, probability in inference.probabilities(store, store.rows("test"), segmenter, self.name):
                overlaps = metrics.score(segmenter.mask(probability), store.mask(row))
                found.append((*store.index.loc[row, ["image", "subject"]], *overlaps))
            _write(pd.DataFrame(found, columns=_COLUMNS), scores)
        return Scored(_read(scores), **read_json(kept / _MINUTES))

    def is_trained(self, store: FrameStore, seed: int, cache: Path) -> bool:
        """Whether the cache has the network."""
        return self._folder(store, seed, cache).exists()

    @property
    def _spec(self) -> NetworkSpec:
        model = self._params.model
        return NetworkSpec(
            architecture=model.architecture, encoder=model.encoder, height=model.height, width=model.width
        )

    def _train(self, seed: int) -> TrainParams:
        return self._params.train.model_copy(update={"seed": seed})

    def _folder(self, store: FrameStore, seed: int, cache: Path) -> Path:
        code = package.running(TRAINS)
        return cache / "networks" / trainer.fingerprint(store, self._spec, self._weights, self._train(seed), code)

    def _network(self, store: FrameStore, seed: int, cache: Path) -> Path:
        """The folder with the trained network."""
        kept = self._folder(store, seed, cache)
        if not kept.exists():
            with replacing_folder(kept) as folder:
                with _timed() as minutes, tempfile.TemporaryDirectory() as checkpoints:
                    trained, _ = trainer.fit(
                        store,
                        self._spec,
                        self._weights,
                        self._train(seed),
                        device=device_name(settings().device),
                        workers=trainer.worker_count(settings().workers, device_name(settings().device)),
                        checkpoints=Path(checkpoints),
                        timings=Timings(),
                        on_epoch=print_epoch,
                    )
                network.save_weights(trained, folder)
                write_json(folder / _MINUTES, minutes)
        return kept


class Plain:
    """The loop of `plain_loop`, or a script with the same options as the one that it follows."""

    name = PLAIN

    def __init__(self, params: Params, weights: str | None, script: Path | None, dataset: Path) -> None:
        """Args: script: None: the loop of `plain_loop`. dataset: the zip that the script reads."""
        self._params = params
        self._weights = weights
        self._script = script
        self._dataset = dataset

    def score(self, store: FrameStore, seed: int, cache: Path) -> Scored:
        source = self._script or Path(plain_loop.__file__)
        options = (*self._options(), seed, self._weights and sha256(Path(self._weights)))
        scores = cache / "plain" / f"{_digest(store.digest(), source.read_text(), *map(str, options))}.csv"
        if not scores.exists():
            with _timed() as minutes:
                found = self._by_script(store, seed) if self._script else self._by_loop(store, seed)
            write_json(scores.with_suffix(".json"), minutes)
            _write(found, scores)
        return Scored(_read(scores), **read_json(scores.with_suffix(".json")))

    def _options(self) -> tuple[str, tuple[int, int], int, int]:
        """Encoder, size, epochs and batch size."""
        model, train = self._params.model, self._params.train
        return model.encoder, (model.height, model.width), train.epochs, train.batch_size

    def _by_loop(self, store: FrameStore, seed: int) -> pd.DataFrame:
        encoder, size, epochs, batch_size = self._options()
        trained = plain_loop.train(store, encoder, self._weights, size, epochs, batch_size, seed)
        return plain_loop.score(trained, store, store.rows("test"), size)

    def _by_script(self, store: FrameStore, seed: int) -> pd.DataFrame:
        """The script scores whoever it does not train on, in the order of the file names."""
        encoder, (height, width), epochs, batch_size = self._options()
        others = store.index[store.index["split"] != "train"].sort_values("image")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "scores.csv"
            command = [sys.executable, self._script, self._dataset, "--test", ",".join(others["subject"].unique())]
            command += ["--encoder", encoder, *(["--weights", self._weights] if self._weights else [])]
            command += ["--size", f"{height}x{width}", "--epochs", epochs, "--batch", batch_size, "--seed", seed]
            subprocess.run([*map(str, command), "--out", out], check=True)
            found = pd.read_csv(out, dtype={"subject": str})
        if found["subject"].tolist() != others["subject"].tolist():
            raise NervesegError(f"{self._script} scored other frames than the fold's, or in another order.")
        return found.assign(image=others["image"].to_numpy())[(others["split"] == "test").to_numpy()][_COLUMNS]


_COLUMNS = ["image", "subject", "dice", "iou"]
_METRICS = "src/nerveseg/evaluation/metrics.py"
_MINUTES = "minutes.json"


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Yields what it fills on exit: minutes and cpu_minutes, with those of processes that have ended."""
    minutes: dict[str, float] = {}
    begun, cpu = time.perf_counter(), _cpu_seconds()
    yield minutes
    minutes |= {"minutes": (time.perf_counter() - begun) / 60, "cpu_minutes": (_cpu_seconds() - cpu) / 60}


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _write(frames: pd.DataFrame, path: Path) -> None:
    with replacing(path) as beside:
        frames.to_csv(beside, index=False)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"image": str, "subject": str})


# Folds


def pack(dataset: Path, params: Params, cache: Path) -> Path:
    """Reads and checks a dataset zip as the split stage does. Returns the folder of the frame store."""
    digest = _digest(sha256(dataset), params.data.model_dump_json(), str(params.split.near_duplicate))
    root = cache / "datasets" / digest
    if not root.exists():
        with replacing_folder(root) as folder:
            (folder / paths.DATASET_ZIP).parent.mkdir(parents=True)
            (folder / paths.DATASET_ZIP).symlink_to(dataset.resolve())
            with contextlib.chdir(folder):
                split.run(params)
    return root / paths.PACKED


def fold_of(packed: Path, params: Params, number: int, fold: int) -> FrameStore:
    """The store with the people of one of `number` folds as `test`, and all others as `train`."""
    folder = packed.with_name(f"fold-{fold}-of-{number}-{params.split.seed}")
    if not folder.exists():
        index = FrameStore.open(packed).index
        asked = params.split.model_copy(update={"by": "subject", "folds": number, "fold": fold})
        side = folds.assign(index, asked).replace("validation", "train")
        with replacing_folder(folder) as beside:
            for file in packed.iterdir():
                (beside / file.name).symlink_to(file.resolve())
            (beside / "index.parquet").unlink()
            index.assign(split=side).to_parquet(beside / "index.parquet", index=False)
    return FrameStore.open(folder)


# Tables


@dataclass(frozen=True)
class Figure:
    """A figure of the test frames: a mean of a column over frames or over the means of subjects."""

    name: str
    column: str
    by_subject: bool = False
    min_frames: int = 1

    def estimate(self, frames: pd.DataFrame, bootstrap: SubjectBootstrap, column: str | None = None) -> Estimate:
        """Its value with the interval. `column`: another one than its own, such as a difference."""
        values: Floats = frames[column or self.column].to_numpy(np.float64)
        sizes = frames.groupby("subject")["image"].transform("size")
        values = np.where(sizes >= self.min_frames, values, np.nan)
        return bootstrap.mean_of_subjects(values) if self.by_subject else bootstrap.mean(values)


def figures_of(params: Params) -> list[Figure]:
    enough = params.evaluate.min_frames
    return [
        Figure("Dice", "dice"),
        Figure("IoU", "iou"),
        Figure("Dice by subject", "dice", by_subject=True),
        Figure(f"Dice by subject, of {enough} frames or more", "dice", by_subject=True, min_frames=enough),
        Figure("share of frames with Dice 0", "missed"),
    ]


@dataclass(frozen=True)
class Result:
    """What a side scored with all seeds on all folds.

    Attributes:
        frames: image, subject, and dice, iou, missed as means over the seeds; a row for each frame.
        by_seed: the mean Dice of each seed.
        minutes, cpu_minutes: of a training, on average.
    """

    frames: pd.DataFrame
    by_seed: list[float]
    minutes: float
    cpu_minutes: float


def run(side: Side, stores: Sequence[FrameStore], seeds: Sequence[int], cache: Path) -> Result:
    """Trains and scores what the cache does not have."""
    scored = [[side.score(store, seed, cache) for store in stores] for seed in seeds]
    every = [pd.concat([each.frames for each in of_seed]) for of_seed in scored]
    frames = pd.concat(every).assign(missed=lambda table: (table["dice"] == 0).astype(float))
    minutes, cpu_minutes = np.mean([(each.minutes, each.cpu_minutes) for of_seed in scored for each in of_seed], axis=0)
    return Result(
        frames.groupby(["image", "subject"], as_index=False)[["dice", "iou", "missed"]].mean(),
        [float(each["dice"].mean()) for each in every],
        float(minutes),
        float(cpu_minutes),
    )


def paired(first: Result, second: Result) -> pd.DataFrame:
    """The frames that both sides were tested on, with their columns as dice_a, dice_b, ..."""
    return first.frames.merge(second.frames, on=["image", "subject"], suffixes=("_a", "_b"), validate="1:1")


def compare(both: pd.DataFrame, params: Params) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """For each figure: that of the first side, of the second, and the second minus the first, paired by frame."""
    bootstrap = SubjectBootstrap(both["subject"].tolist(), params.evaluate.resamples, params.evaluate.seed)
    found = {}
    for figure in figures_of(params):
        a, b = f"{figure.column}_a", f"{figure.column}_b"
        frames = both.assign(difference=both[b] - both[a])
        found[figure.name] = tuple(figure.estimate(frames, bootstrap, column) for column in (a, b, "difference"))
    return found


def better_on(both: pd.DataFrame) -> str:
    """On how many subjects the second side has the higher mean Dice."""
    means = both.groupby("subject")[["dice_a", "dice_b"]].mean()
    return f"{int((means['dice_b'] > means['dice_a']).sum())} of {len(means)}"


def shown(estimate: Estimate, sign: str = "") -> str:
    between = figures.interval(estimate.interval, 3)
    return f"{estimate.value:{sign}.3f}" + (f" ({between})" if between else "")


def print_pair(sides: Sequence[Side], results: Sequence[Result], params: Params) -> None:
    """Prints both sides and their difference as a Markdown table."""
    print(f"| | {sides[0].name} | {sides[1].name} | difference |\n|---|---|---|---|")
    for name, (first, second, difference) in compare(paired(*results), params).items():
        print(f"| {name} | {shown(first)} | {shown(second)} | {shown(difference, '+')} |")
    spreads = ["  ".join(f"{dice:.3f}" for dice in result.by_seed) for result in results]
    print(f"| Dice of each seed | {' | '.join(spreads)} | |")
    for name in ("minutes", "cpu_minutes"):
        one, other = (getattr(result, name) for result in results)
        print(f"| {name.replace('_', ' ')} of a training | {one:.2f} | {other:.2f} | x {other / one:.2f} |")
    print(f"\nThe Dice by subject is better on {better_on(paired(*results))} subjects.")


def print_ablation(base: Result, changes: Mapping[str, Result], params: Params) -> None:
    """Prints what each change gains over the base, alone, as a Markdown table."""
    names = ("Dice by subject", "Dice", "IoU")
    print(f"| change | {' | '.join(names)} | better on | CPU minutes |\n|---|---|---|---|---|---|")
    own = compare(paired(base, base), params)
    print(f"| none | {' | '.join(shown(own[name][0]) for name in names)} | | {base.cpu_minutes:.1f} |")
    for change, result in changes.items():
        both = paired(base, result)
        cells = " | ".join(shown(compare(both, params)[name][2], "+") for name in names)
        print(f"| {change} | {cells} | {better_on(both)} | {result.cpu_minutes:.1f} |")


def ablate(
    base: Recipe, changed: Sequence[Recipe], stores: Sequence[FrameStore], seeds: Sequence[int], cache: Path
) -> Iterator[tuple[Result, dict[str, Result]]]:
    """Yields the results of the base and of the changes after each fold, because all of them may take days."""
    for done in range(1, len(stores) + 1):
        first, *others = (run(side, stores[:done], seeds, cache) for side in (base, *changed))
        yield first, {side.name: result for side, result in zip(changed, others, strict=True)}


def ablated(
    base: Recipe, changed: Sequence[Recipe], stores: Sequence[FrameStore], seeds: Sequence[int], cache: Path
) -> tuple[Result, dict[str, Result]]:
    """The same of what the cache has: each change on the folds that are complete. Trains nothing."""
    found = {}
    for side in (base, *changed):
        there = [store for store in stores if all(side.is_trained(store, seed, cache) for seed in seeds)]
        if there:
            found[side.name] = run(side, there, seeds, cache)
        elif side is base:
            raise NervesegError("--cached: the cache has no fold of the base.")
    return found.pop(base.name), found


# Command line


def overridden(content: Mapping[str, Any], overrides: Overrides) -> Params:
    """The parameters with some values replaced, by dotted names."""
    return parse(replaced(content, overrides), "params.yaml with the changes")


def overrides_in(text: str) -> dict[str, Any]:
    """`train.epochs=5 model.flips=true` as names and values, which are YAML."""
    pairs = [pair.partition("=") for pair in text.split()]
    if wrong := [name for name, equals, _ in pairs if not equals or "." not in name]:
        raise NervesegError(f"{wrong[0]}: use section.key=value, such as train.augmentation=strong.")
    return {name: YAML(typ="safe", pure=True).load(value) for name, _, value in pairs}


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("benchmarks.quality", __doc__)
    add = parser.add_argument
    add("dataset", type=Path, nargs="?", help="a dataset zip; the built-in phantom if left out")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="changes a parameter of params.yaml")
    add("--against", default=PLAIN, metavar="NAME=VALUE ...", help="parameters of the other side; plain: the loop")
    add("--plain", type=Path, metavar="FILE", help="a script in place of benchmarks/plain_loop.py")
    add("--ablation", type=Path, metavar="FILE", help="YAML with `base` and `changes`; each against the base")
    add("--cached", action="store_true", help="with --ablation: shows what the cache has, and trains nothing")
    add("--folds", type=int, default=5)
    add("--only-folds", metavar="1,2", help="all if left out; with --ablation all but 0")
    add("--seeds", default="70", metavar="70,71,72")
    add("--size", metavar="HEIGHTxWIDTH")
    add("--recipe"), add("--encoder"), add("--epochs", type=int)
    add("--weights", metavar="FILE", help="the encoder's weights, for both sides")
    add("--cache", type=Path, default=Path(".dvc/tmp/quality"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    content = read_yaml(paths.PARAMS)
    height, _, width = (options.size or "").partition("x")
    named = {
        "train.recipe": options.recipe,
        "train.epochs": options.epochs,
        "model.encoder": options.encoder,
        "model.height": int(height) if height else None,
        "model.width": int(width) if width else None,
    }
    common = {name: value for name, value in named.items() if value is not None}
    common |= overrides_in(" ".join(options.set))
    params = overridden(content, common)
    cache, weights = options.cache.resolve(), options.weights and str(Path(options.weights).resolve())
    dataset = options.dataset
    if dataset is None:
        dataset = cache / f"phantom-{_digest(params.phantom.model_dump_json())}.zip"
        if not dataset.exists():
            phantom.write(dataset, params.phantom)
    packed = pack(dataset, params, cache)
    first = 1 if options.ablation else 0
    numbers = (
        [int(fold) for fold in options.only_folds.split(",")] if options.only_folds else range(first, options.folds)
    )
    if options.ablation and 0 in numbers:
        raise NervesegError("Fold 0 is for the final comparison: no setting is chosen on it. Use --only-folds 1,2,...")
    stores = [fold_of(packed, params, options.folds, number) for number in numbers]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    tested = pd.concat([store.index[store.index["split"] == "test"] for store in stores])
    console.print(f"{len(tested)} frames of {tested['subject'].nunique()} subjects are tested, seeds {options.seeds}")
    if options.ablation:
        plan = read_yaml(options.ablation)
        if plan.keys() != {"base", "changes"}:
            raise NervesegError(f"{options.ablation} has {', '.join(plan)}; it needs base and changes.")
        base = Recipe("base", overridden(content, common | plan["base"]), weights)
        changed = [
            Recipe(name, overridden(content, common | plan["base"] | change), weights)
            for name, change in plan["changes"].items()
        ]
        if options.cached:
            print_ablation(*ablated(base, changed, stores, seeds, cache), params)
            return
        for done, results in enumerate(ablate(base, changed, stores, seeds, cache), start=1):
            print(f"\n{done} of {len(stores)} folds\n")
            print_ablation(*results, params)
        return
    if options.against == PLAIN:
        if params.model.encoder_weights != "none" and not weights:
            raise NervesegError("Name the encoder's weights by --weights FILE, so that both sides have them.")
        other: Side = Plain(params, weights, options.plain, dataset)
    else:
        other = Recipe(options.against, overridden(content, common | overrides_in(options.against)), weights)
    name = " ".join(change for change in options.set if change.startswith(("model.", "train."))) or params.train.recipe
    sides = (other, Recipe(name, params, weights))
    print_pair(sides, [run(side, stores, seeds, cache) for side in sides], params)


if __name__ == "__main__":
    with readable_errors():
        main()
