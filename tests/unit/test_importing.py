"""`nerveseg profile import`: files of Hydrogen Torch and nnU-Net become profiles, and nothing is left out unsaid."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from nerveseg import params, profiles
from nerveseg.cli import app
from nerveseg.importing import hydrogen_torch, nnunet
from nerveseg.importing.mapping import Setting
from nerveseg.report import parity
from nerveseg.training import recipes

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
SEVERAL = {"background": 0, "nerve": 1, "artery": 2}
# A few hundred bytes that stand for half a million values.
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 19))

# The configuration of use case 70, with the keys and values that Hydrogen Torch exports.
EXPERIMENT = """
architecture:
    architecture: Unet
    backbone: resnet34
    pretrained: true
augmentation:
    augmentations_strategy: Soft
    custom_train_augmentations: '{"__version__": "1.1.0", "transform": {"__class_fullname__":
        "Compose", "p": 1.0, "transforms": []}}'
    cutmix_corner: false
    mix_image: Disabled
    mix_probability: 1.0
dataset:
    class_name_column: class_id
    data_folder: data/anon/nerves/images/
    folds:
    - '4'
    group_fold_column: image
    rle_mask_column: rle_mask
    train_dataframe: data/anon/nerves/train.pq
    validation_size: 0.2
    validation_strategy: kfold
environment:
    gpus:
    - '0'
    mixed_precision_training: true
    seed: -1
experiment_name: 70_nerves
image:
    image_channels: 3
    image_height: 448
    image_normalization: Simple
    image_width: 448
logging:
    logger: None
    neptune_project: ''
prediction:
    metric: IoU
    probability_threshold: 0.5
    test_time_augmentations: []
training:
    batch_size: 16
    differential_learning_rate: 0.001
    differential_learning_rate_layers: []
    drop_last_batch: true
    epochs: 5
    grad_accumulation: 1
    gradient_clip: 0.0
    learning_rate: 0.001
    loss_function: BCEDice
    optimizer: AdamW
    save_best_checkpoint: false
    schedule: Cosine
    train_validation_data: false
    warmup_epochs: 0
    weight_decay: 0.0
"""
PLANS = {
    "dataset_name": "Dataset070_Nerves",
    "plans_name": "nnUNetPlans",
    "original_median_shape_after_transp": [1, 420, 580],
    "image_reader_writer": "NaturalImage2DIO",
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "batch_size": 13,
            "patch_size": [448, 590],
            "normalization_schemes": ["ZScoreNormalization"],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {"n_stages": 7, "features_per_stage": [32, 64, 128, 256, 512, 512, 512]},
            },
            "batch_dice": True,
        }
    },
    "foreground_intensity_properties_per_channel": {"0": {"max": 255.0, "mean": 96.1, "std": 41.2}},
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the shipped params.yaml, and `cfg.yaml` and `plans.json`."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "cfg.yaml").write_text(EXPERIMENT)
    (tmp_path / "plans.json").write_text(json.dumps(PLANS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(file: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["profile", "import", file, *options])


def changed(**settings: Any) -> str:
    """The experiment with other values of some settings, by section__key."""
    content = YAML(typ="safe", pure=True).load(EXPERIMENT)
    for name, value in settings.items():
        section, _, key = name.partition("__")
        content[section][key] = value
    return json.dumps(content)


def applied(profile: str) -> dict[str, Any]:
    """All parameters once params.yaml has the profile, with the values of the recipe."""
    profiles.apply(profiles.find(profile))
    given = params.load()
    return params.flatten(given.model_dump(by_alias=True) | {"train": recipes.resolved(given.train)})


def explained(result: Result) -> str:
    """What was printed, without the lines and the line breaks of tables."""
    return " ".join(result.stderr.replace("│", " ").split())


def test_the_published_experiment_becomes_the_published_run(workspace: Path) -> None:
    result = imported("cfg.yaml")
    assert result.exit_code == 0, result.stderr
    assert "it has architecture.backbone" in result.stderr
    assert "profile apply cfg`" in result.stderr
    found = applied("cfg")
    assert parity.applies(found)
    assert (found["split.by"], found["split.validation_fold"], found["evaluate.split"]) == ("fold", 4, "validation")
    assert found["data.uri"] == params.load(ROOT / "params.yaml").data.uri, "where the data lies is the user's"


def test_each_setting_of_the_file_is_listed_with_what_became_of_it(workspace: Path) -> None:
    (workspace / "cfg.yaml").write_text(changed(training__shiny="\x1b[31mnew"))
    shown = imported("cfg.yaml").stderr
    content = YAML(typ="safe", pure=True).load(EXPERIMENT)
    names = [name for name in params.flatten(content) if not name.startswith("logging.")]
    assert [name for name in [*names, "logging", "training.shiny"] if f" {name} " not in shown] == []
    assert "nerveseg does not know this key" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("setting", "value", "parameter", "expected"),
    [
        ("image__image_height", 450, "model.height", 448),
        ("augmentation__augmentations_strategy", "Hard", "train.augmentation", "strong"),
        ("augmentation__mix_image", "Cutmix", "train.mixing", "cutmix"),
        ("architecture__pretrained", False, "model.encoder_weights", "none"),
        ("training__loss_function", "BCELovasz", "train.loss", "lovasz"),
        ("training__warmup_epochs", 1, "train.warmup", 0.2),
        ("training__optimizer", "Adam", "train.optimizer", "adamw"),
        ("training__save_best_checkpoint", True, "train.keep", "best"),
        ("prediction__test_time_augmentations", ["Horizontal flip"], "model.flips", True),
        ("environment__mixed_precision_training", False, "train.precision", "fp32"),
        ("environment__seed", 7, "train.seed", 7),
        ("dataset__validation_strategy", "automatic", "split.validation", 0.2),
    ],
)
def test_values_are_converted(setting: str, value: Any, parameter: str, expected: Any, workspace: Path) -> None:
    (workspace / "cfg.yaml").write_text(changed(**{setting: value}))
    assert imported("cfg.yaml").exit_code == 0
    assert applied("cfg")[parameter] == expected


def test_the_encoders_learning_rate_becomes_a_factor(workspace: Path) -> None:
    rates = {"training__differential_learning_rate": 1e-4, "training__differential_learning_rate_layers": ["backbone"]}
    (workspace / "cfg.yaml").write_text(changed(**rates))
    imported("cfg.yaml")
    assert applied("cfg")["train.encoder_learning_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("setting", "value", "parameter", "reason"),
    [
        ("training__learning_rate", 2.0, "train.learning_rate", "less than or equal to 1"),
        ("training__batch_size", 1, "train.batch_size", "greater than or equal to 2"),
        ("training__epochs", "five", "train.epochs", "valid integer"),
        ("training__warmup_epochs", 9, "train.warmup", "less than 1"),
        ("image__image_width", 4096, "model.width", "less than or equal to 2048"),
        ("training__loss_function", "Jaccard", "train.loss", "to Jaccard lovasz"),
        ("training__schedule", "Linear", "train.schedule", "the nearest to Linear is cosine"),
        ("augmentation__augmentations_strategy", "Custom", "train.augmentation", "name it in train.augmentation"),
        ("dataset__folds", ["0", "1"], "split.validation_fold", "nerveseg crossval"),
        ("dataset__validation_strategy", "custom", "split.by", "a fold of their own"),
        ("prediction__test_time_augmentations", ["Scale"], "model.flips", "only flips"),
    ],
)
def test_what_does_not_fit_is_said_and_left_alone(
    setting: str, value: Any, parameter: str, reason: str, workspace: Path
) -> None:
    before = params.flatten(params.load().model_dump(by_alias=True))[parameter]
    (workspace / "cfg.yaml").write_text(changed(**{setting: value}))
    result = imported("cfg.yaml")
    assert result.exit_code == 0, result.stderr
    assert reason in explained(result)
    assert params.flatten(params.read_yaml(Path("profiles/cfg.yaml"))).get(parameter) is None
    profiles.apply(profiles.find("cfg"))
    assert params.flatten(params.load().model_dump(by_alias=True))[parameter] == before


def test_a_plan_becomes_a_profile_and_what_the_trainer_does_is_said(workspace: Path) -> None:
    result = imported("plans.json", "--out", "nnunet.yaml")
    assert result.exit_code == 0, result.stderr
    shown = explained(result)
    assert "default trainer" in shown
    assert "250000 * train.batch_size" in shown
    assert "nnUNetTrainer.enable_deep_supervision" in shown
    found = applied("nnunet.yaml")
    assert (found["model.height"], found["model.width"], found["train.batch_size"]) == (448, 576, 13)
    assert (found["train.loss"], found["train.optimizer"]) == ("bce_dice", "sgd")
    assert found["train.epochs"] == params.load(ROOT / "params.yaml").train.epochs


def test_settings_that_are_valid_only_together_are_imported_in_any_order(workspace: Path) -> None:
    """A fold that is scored allows no threshold chosen on it, which params.yaml has until the file's is imported."""
    profiles.override({"model.threshold": "validation"}, Path("params.yaml"))
    assert imported("cfg.yaml").exit_code == 0
    found = applied("cfg")
    assert (found["model.threshold"], found["evaluate.split"], found["split.by"]) == (0.5, "validation", "fold")


@pytest.mark.parametrize("labels", [{"background": 0, "nerve": 1}, {"0": "background", "1": "nerve"}])
def test_one_label_needs_no_choice(labels: dict[str, Any], workspace: Path) -> None:
    described = {"channel_names": {"0": "US"}, "labels": labels, "numTraining": 3, "file_ending": ".png"}
    (workspace / "dataset.json").write_text(json.dumps(described))
    assert imported("dataset.json").exit_code == 0
    assert params.read_yaml(Path("profiles/dataset.yaml")) == {"data": {"classes": None}}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (SEVERAL, "data.classes: [nerve]"),
        ({"background": 0, "whole": [1, 2], "core": 2}, "regions"),
        ({"background": 0, "nerve": 1, "ignore": 2}, "ignore would count as background"),
    ],
)
def test_labels_that_are_not_one_nerve_are_for_the_user_to_choose(
    labels: dict[str, Any], reason: str, workspace: Path
) -> None:
    (workspace / "dataset.json").write_text(json.dumps({"channel_names": {"0": "US"}, "labels": labels}))
    result = imported("dataset.json")
    assert result.exit_code == 1
    assert reason in explained(result)
    assert not Path("profiles").exists()


def test_an_existing_profile_is_kept(workspace: Path) -> None:
    (workspace / "mine.yaml").write_text("train: {epochs: 9}\n")
    result = imported("cfg.yaml", "--out", "mine.yaml")
    assert result.exit_code == 1
    assert "mine.yaml exists" in result.stderr
    assert (workspace / "mine.yaml").read_text() == "train: {epochs: 9}\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("train: {epochs: 5}\n", "nnU-Net's plans.json"),
        ("- a\n", "sections"),
        ("a: [", "neither YAML nor JSON"),
        ("a: !!python/object/apply:os.system ['touch run']\n", "neither YAML nor JSON"),
        ('{"a": ' + "[" * 5000, "neither YAML nor JSON"),
        (ALIASES, "over 10000 values"),
        ("# " + "x" * 2**18, "larger than 256 KiB"),
        (json.dumps(PLANS | {"configurations": {"3d_fullres": {}}}), "configurations 3d_fullres, but not 2d"),
        (json.dumps(PLANS | {"labels": SEVERAL, "channel_names": {}}), "several kinds"),
        (EXPERIMENT.replace("rle_mask_column: rle_mask", "label_columns: [x]"), "not of image semantic segmentation"),
    ],
    ids=["other", "list", "broken", "tag", "deep", "aliases", "large", "3d", "both", "classification"],
)
def test_other_files_are_refused_and_nothing_is_written(content: str, reason: str, workspace: Path) -> None:
    (workspace / "file.yaml").write_text(content)
    result = imported("file.yaml")
    assert result.exit_code == 1
    assert reason in explained(result)
    assert sorted(path.name for path in workspace.iterdir()) == ["cfg.yaml", "file.yaml", "params.yaml", "plans.json"]


def test_pickled_plans_and_missing_files_are_refused(workspace: Path) -> None:
    (workspace / "plans.pkl").write_bytes(b"\x80\x04\x95")
    assert "pickles" in imported("plans.pkl").stderr
    assert "is not a file" in imported("nope.yaml").stderr


@pytest.mark.parametrize("settings", [hydrogen_torch.SETTINGS, nnunet.PLANS, nnunet.DATASET])
def test_the_tables_name_known_parameters_and_each_setting_once(settings: tuple[Setting, ...]) -> None:
    names = [name for setting in settings for name in setting.names]
    assert len(names) == len(set(names))
    assert {each for setting in settings for each in setting.parameters} <= set(params.known_names())
    assert [setting.names for setting in settings if not setting.parameters and not setting.note] == []


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("Hydrogen Torch", hydrogen_torch.SETTINGS),
        ("nnU-Net's `plans.json`", nnunet.PLANS),
        ("nnU-Net's `dataset.json`", nnunet.DATASET),
    ],
)
def test_the_documented_table_is_what_the_code_has(system: str, settings: tuple[Setting, ...]) -> None:
    rows = [f"| {ticked(each.names)} | {ticked(each.parameters)} | {each.note} |" for each in settings]
    table = "\n".join((f"| {system} | `params.yaml` | |", "|---|---|---|", *rows))
    assert f"\n{table}\n\n" in REFERENCE, f"docs/reference.md should hold this table:\n\n{table}\n"


def ticked(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
