"""Tables and searches without trainings: files, configurations, the table, the study after a kill, the selection."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

from nerveseg import params
from nerveseg.errors import NervesegError
from nerveseg.params import Params
from nerveseg.trials import markup, selection, space, study, table
from nerveseg.trials.folds import FIGURES, Fold, Plan, configured, pooled
from nerveseg.trials.space import Search

ROOT = Path(__file__).parents[2]
SPACE = {
    "train.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "train.epochs": {"type": "int", "low": 2, "high": 8, "step": 2},
    "train.schedule": {"type": "categorical", "values": ["cosine", "constant"]},
}


@pytest.fixture
def base() -> Params:
    return params.load(ROOT / "params.yaml")


def written(folder: Path, content: Mapping[str, Any], name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return path


def searching(folder: Path, **changes: Any) -> Search:
    return space.read(written(folder, {"trials": 4, "folds": 3, "seed": 1, "space": SPACE} | changes))


def test_the_documented_files_are_valid(base: Params) -> None:
    search, matrix = ROOT / "docs/examples/search.yaml", ROOT / "docs/examples/matrix.yaml"
    space.check(space.read(search), base, search)
    table.check(table.read(matrix), base, matrix)


def test_folds_for_choosing_leave_the_test_subjects_aside(base: Params) -> None:
    validation, test = (configured(base, Plan(5, scored).values(2), "it") for scored in ("validation", "test"))
    assert (validation.split.folds_of, validation.evaluate.split, validation.split.test) == (
        "development",
        "validation",
        base.split.test,
    )
    assert (test.split.folds_of, test.evaluate.split) == ("all", "test")
    assert validation.split.fold == test.split.fold == 2
    assert "test subjects of params.yaml are set aside" in Plan(5, "validation").described
    assert "choose nothing by these scores" in Plan(5, "test").described


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"train.learning_rat": SPACE["train.learning_rate"]}, "unknown parameter; did you mean train.learning_rate?"),
        ({"split.seed": {"type": "int", "low": 1, "high": 3}}, "split.seed cannot be varied"),
        ({"train.learning_rate": {"type": "float", "low": 0.1, "high": 2.0}}, "train.learning_rate: 2.0 is invalid"),
        ({"train.epochs": {"type": "float", "low": 1.0, "high": 2.5}}, "train.epochs: 1.0 is invalid"),
        ({"model.height": {"type": "int", "low": 64, "high": 96, "step": 16}}, "model.height: 80 is invalid"),
        ({"train.schedule": {"type": "categorical", "values": ["cosine", "linear"]}}, '"linear" is invalid'),
        ({"train.learning_rate": {"type": "float", "low": 0.0, "high": 0.1, "log": True}}, "with log, above 0"),
        ({"train.epochs": {"type": "int", "low": 2, "high": 5, "step": 2}}, "a number of steps above low"),
        ({"model.threshold": {"type": "categorical", "values": [0.5, "validation"]}}, "the same frames that"),
    ],
)
def test_a_wrong_space_is_refused_before_anything_starts(
    dimension: dict[str, Any], said: str, base: Params, tmp_path: Path
) -> None:
    file = written(tmp_path, {"trials": 4, "folds": 3, "seed": 1, "space": dimension})
    with pytest.raises(NervesegError) as error:
        space.check(space.read(file), base, file)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"configurations": {"a": {"train.seed": 3}}}, "train.seed is set by seeds"),
        ({"configurations": {"a": {"data.frames": "all"}}}, "data.frames cannot be varied"),
        ({"configurations": {"a": {}, "b": {"train.epochs": 0}}}, "configuration b is invalid"),
        ({"configurations": {"a": {"train.keep": "best"}}}, "choose the epoch by the validation frames"),
        ({"configurations": {"a": {"train.patience": 2}}}, "A table may have scored: test instead"),
        ({"configurations": {}}, "configurations"),
        ({"seeds": [1, 1]}, "name each seed once"),
        ({"fold": 3}, "fold: unknown key; did you mean folds?"),
        ({"folds": 2}, "folds"),
    ],
)
def test_a_wrong_matrix_is_refused_before_anything_starts(
    changes: dict[str, Any], said: str, base: Params, tmp_path: Path
) -> None:
    file = written(tmp_path, {"folds": 3, "seeds": [1], "configurations": {"a": {}}} | changes)
    with pytest.raises(NervesegError) as error:
        table.check(table.read(file), base, file)
    assert said in str(error.value)


def test_the_epoch_may_be_chosen_where_other_frames_are_scored(base: Params, tmp_path: Path) -> None:
    content = {"folds": 3, "seeds": [1], "scored": "test", "configurations": {"a": {"train.keep": "best"}}}
    file = written(tmp_path, content)
    table.check(table.read(file), base, file)


def test_sections_of_a_matrix_may_be_nested(tmp_path: Path) -> None:
    content = {"folds": 3, "seeds": [1], "configurations": {"a": None, "b": {"train": {"epochs": 2, "batch_size": 4}}}}
    matrix = table.read(written(tmp_path, content))
    assert matrix.configurations == {"a": {}, "b": {"train.epochs": 2, "train.batch_size": 4}}
    assert matrix.scored == "validation"


def frames_of(dice: Mapping[tuple[str, int], list[float]], subjects: list[str]) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame(
            {
                "configuration": name,
                "seed": seed,
                "row": range(len(values)),
                "subject": subjects,
                "dice": values,
                "iou": np.array(values) / 2,
            }
        )
        for (name, seed), values in dice.items()
    )


def test_a_table_averages_seeds_and_pairs_subjects(base: Params) -> None:
    subjects = ["1", "1", "1", "2"]
    scored = {
        ("first", 1): [0.5, 0.5, 0.5, 0.1],
        ("first", 2): [0.7, 0.7, 0.7, 0.3],
        ("second", 1): [0.8, 0.8, 0.8, 0.4],
        ("second", 2): [0.8, 0.8, 0.8, 0.4],
    }
    trainings = pd.DataFrame(
        {"configuration": ["first", "second", "second"], "seconds": [3.0, 4, 6], "images_per_second": [9.0, 8, 6]}
    )
    rows = table.summarise(frames_of(scored, subjects), trainings, base.evaluate).set_index("configuration")
    first, second = rows.loc["first"], rows.loc["second"]
    assert (first["frames"], first["subjects"], first["seeds"]) == (4, 2, 2)
    assert first["dice"] == pytest.approx((3 * 0.6 + 0.2) / 4)
    assert first["dice_by_subject"] == pytest.approx((0.6 + 0.2) / 2)
    assert second["iou_by_subject"] == pytest.approx((0.4 + 0.2) / 2)
    assert np.isnan(first["dice_difference"])
    # The gain is the same for both subjects, so its interval has no width, though that of each mean has.
    bounds = [second[f"dice_difference{bound}"] for bound in ("", "_low", "_high")]
    assert bounds == pytest.approx([0.2] * 3)
    assert second["dice_high"] - second["dice_low"] > 0.3
    assert first["dice_sd"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert second["dice_sd"] == pytest.approx(0)
    assert (second["seconds"], second["images_per_second"]) == (5, 7)


def test_a_table_is_written_for_markdown_and_latex() -> None:
    shown = pd.DataFrame({"configuration": ["a_b", "5 % | more"], "Dice": ["0.5", "0.6"]})
    assert markup.markdown(shown).splitlines() == [
        "| configuration | Dice |",
        "| --- | ---: |",
        "| a_b | 0.5 |",
        "| 5 % \\| more | 0.6 |",
    ]
    text = markup.latex(shown, "50 % of {all}")
    assert r"a\_b & 0.5 \\" in text
    assert r"5 \% | more & 0.6 \\" in text
    assert r"\caption{50 \% of \{all\}}" in text
    row = pd.Series({"d": 0.12, "d_low": -0.01, "d_high": 0.2})
    assert markup.with_interval(row, "d", sign=True) == "+0.1200 (-0.0100 to +0.2000)"


def test_folds_of_different_datasets_are_not_pooled() -> None:
    def fold(number: int, rows: list[int]) -> Fold:
        scores = pd.DataFrame({"row": rows, "image": "a", "subject": "1", "dice": 0.5, "iou": 0.4})
        return Fold(number, scores, "run", True, 1.0, 2.0)

    assert pooled([fold(0, [2, 0]), fold(1, [1])])["fold"].tolist() == [0, 1, 0]
    with pytest.raises(NervesegError, match="scored in two folds"):
        pooled([fold(0, [0, 1]), fold(1, [1])])


# The study: a file in tmp_path, as processes share it.


@pytest.fixture
def opened(tmp_path: Path, base: Params) -> optuna.Study:
    return study.opened(study.sqlite(tmp_path / "search.db"), "it", searching(tmp_path), base)


def ask(found: optuna.Study, search: Search, worker: str) -> optuna.Trial:
    found.sampler = study.sampler(search, found)
    trial = found.ask()
    trial.set_user_attr(study.WORKER, worker)
    if study.BASELINE not in trial.user_attrs:
        search.suggest(trial)
    return trial


def test_a_trial_whose_process_died_is_repeated_and_a_living_ones_is_not(tmp_path: Path, opened: optuna.Study) -> None:
    search = searching(tmp_path)
    assert study.prepare(tmp_path, opened) == []
    with study.alive(tmp_path) as living:
        baseline = ask(opened, search, living)
        assert study.BASELINE in baseline.user_attrs, "params.yaml as it is comes first"
        (tmp_path / study.LOCKS / "dead").touch()
        lost, elsewhere = ask(opened, search, "dead"), ask(opened, search, "of another machine")
        given = lost.params
        assert study.prepare(tmp_path, opened) == [lost.number]
        assert study.prepare(tmp_path, opened) == [], "once"
        assert {trial.number for trial in study.running(opened)} == {baseline.number, elsewhere.number}
        again = ask(opened, search, living)
        assert again.params == given
        assert study.label(opened.trials[again.number]) == lost.number
        assert study.to_start(opened, search), "three of four have begun, and the lost one is not counted"
        ask(opened, search, living)
        assert not study.to_start(opened, search)


def test_what_fails_by_its_parameters_is_not_repeated_and_what_dies_always_is_given_up(
    tmp_path: Path, opened: optuna.Study
) -> None:
    search = searching(tmp_path)
    study.prepare(tmp_path, opened)
    opened.tell(ask(opened, search, "w"), 0.5)
    diverged = ask(opened, search, "w")
    diverged.set_user_attr(study.ERROR, "the loss diverged")
    opened.tell(diverged, state=TrialState.FAIL)
    assert study.prepare(tmp_path, opened) == []
    first = ask(opened, search, "w")
    opened.tell(first, state=TrialState.FAIL)
    for _ in range(3):
        assert study.prepare(tmp_path, opened) == [first.number]
        opened.tell(ask(opened, search, "w"), state=TrialState.FAIL)
    assert study.prepare(tmp_path, opened) == []
    assert len(study.finished(opened)) == 3


def test_without_params_yaml_as_it_is_there_is_nothing_to_compare_with(tmp_path: Path, opened: optuna.Study) -> None:
    search = searching(tmp_path)
    study.prepare(tmp_path, opened)
    baseline = ask(opened, search, "w")
    baseline.set_user_attr(study.ERROR, "no frames")
    opened.tell(baseline, state=TrialState.FAIL)
    with pytest.raises(NervesegError, match="cannot be scored, so there is nothing to compare with: no frames"):
        study.to_start(opened, search)
    assert study.prepare(tmp_path, opened) == [0], "the next command tries it again"
    assert study.to_start(opened, search)


def test_a_search_suggests_the_same_whether_or_not_it_was_interrupted(tmp_path: Path, base: Params) -> None:
    search, found = searching(tmp_path), []
    for name, interrupted in (("a", False), ("b", True)):
        one = study.opened(study.sqlite(tmp_path / "search.db"), name, search, base)
        study.prepare(tmp_path, one)
        one.tell(ask(one, search, "w"), 0.5)
        if interrupted:
            one.tell(ask(one, search, "w"), state=TrialState.FAIL)
            study.prepare(tmp_path, one)
        suggested = []
        for value in (0.6, 0.4):
            trial = ask(one, search, "w")
            suggested.append(trial.params)
            one.tell(trial, value)
        found.append(suggested)
    assert found[0] == found[1]


def test_a_trial_is_pruned_when_it_falls_behind_even_after_an_easy_first_fold(
    tmp_path: Path, opened: optuna.Study
) -> None:
    search = searching(tmp_path, trials=9)
    study.prepare(tmp_path, opened)

    def folds(dice: list[float]) -> list[bool]:
        """Scores folds as a worker does, by the sum so far; returns after which the trial would end."""
        trial = ask(opened, search, "w")
        ends = []
        for number, value in enumerate(np.cumsum(dice)):
            trial.report(value, number)
            ends.append(trial.should_prune())
        opened.tell(trial, sum(dice))
        return ends

    for _ in range(5):
        assert not any(folds([0.8, 0.4, 0.6]))
    assert folds([0.81, 0.2, 0.6]) == [False, True, True], "its first fold is easy, not good"
    assert not any(folds([0.8, 0.45, 0.6]))


@pytest.mark.parametrize("changed", ["params.yaml", "space", "folds"])
def test_a_search_is_not_continued_with_other_things_to_compare(changed: str, tmp_path: Path, base: Params) -> None:
    url = study.sqlite(tmp_path / "search.db")
    study.opened(url, "it", searching(tmp_path), base)
    study.opened(url, "it", searching(tmp_path, trials=40), base)  # more trials are welcome
    search, given = searching(tmp_path), base
    if changed == "params.yaml":
        given = configured(base, {"train.epochs": 7}, "it")
    elif changed == "space":
        search = searching(tmp_path, space={"train.epochs": SPACE["train.epochs"]})
    else:
        search = searching(tmp_path, folds=4)
    with pytest.raises(NervesegError, match=f"begun with another {changed}"):
        study.opened(url, "it", search, given)


# The selection.


def totals(gains: list[float], subjects: int, noise: float, seed: int) -> np.ndarray:
    """Scores of one frame per subject: each column has a true gain over the first, and noise of its own."""
    draw = np.random.Generator(np.random.PCG64(seed)).normal
    scores: np.ndarray = 0.6 + np.array([0.0, *gains]) + draw(0, noise, (subjects, len(gains) + 1))
    return scores


def test_of_equal_trials_the_gain_of_the_best_is_selection(base: Params) -> None:
    evaluate = base.evaluate.model_copy(update={"resamples": 500})
    found = [selection.select(totals([0.0] * 19, 30, 0.1, seed), np.ones((30, 20)), evaluate) for seed in range(40)]
    apparent, unseen, chance = (
        np.mean([getter(each) for each in found])
        for getter in (lambda one: one.apparent.value, lambda one: one.unseen.value, lambda one: one.chance)
    )
    assert apparent > 0.03
    assert abs(unseen) < 0.5 * apparent
    assert chance == pytest.approx(apparent, rel=0.3)
    assert np.mean([each.p_value < 0.05 for each in found]) < 0.2


def test_a_real_gain_is_not_taken_for_selection(base: Params) -> None:
    evaluate = base.evaluate.model_copy(update={"resamples": 500})
    found = selection.select(totals([0.0] * 18 + [0.3], 30, 0.05, 1), np.ones((30, 20)), evaluate)
    assert found.best == 19
    assert found.unseen.value == pytest.approx(found.apparent.value, abs=0.01)
    assert found.unseen.interval is not None
    assert found.unseen.interval[0] > 0.2
    assert found.p_value < 0.01
    assert found.selected == pytest.approx(found.apparent.value - found.unseen.value)


def test_params_yaml_is_kept_unless_another_is_better(base: Params) -> None:
    worse = np.array([[0.6, 0.5, 0.6], [0.6, 0.5, 0.6]])
    assert selection.select(worse, np.ones((2, 3)), base.evaluate).best == 0
    alone = selection.select(np.array([[0.6, 0.5, 0.7]]), np.ones((1, 3)), base.evaluate)
    assert alone.best == 2
    assert np.isnan(alone.unseen.value)


def test_sums_of_subjects_leave_undefined_frames_out() -> None:
    frames = pd.DataFrame({"subject": ["b", "a", "a"], "dice": [0.5, 0.25, np.nan], "iou": [0.4, 0.2, np.nan]})
    found = selection.sums(frames, FIGURES)
    assert found.index.tolist() == ["a", "b"]
    assert found["frames"].tolist() == [1, 1]
    assert found["dice"].tolist() == [0.25, 0.5]
