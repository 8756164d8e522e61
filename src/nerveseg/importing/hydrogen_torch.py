"""Hydrogen Torch: the YAML that it exports of an image semantic segmentation experiment."""

from collections.abc import Mapping
from typing import Any

from nerveseg.errors import NervesegError
from nerveseg.importing.mapping import (
    Content,
    Kind,
    NoCounterpartError,
    Setting,
    as_is,
    choice,
    found,
    number,
    side,
    without,
)


def _evidence(content: Content) -> str:
    keys = ("architecture.backbone", "training.learning_rate", "training.loss_function")
    return f"it has {', '.join(keys)}" if all(found(content, key) is not None for key in keys) else ""


def _check(content: Content, name: str) -> None:
    dataset = found(content, "dataset")
    has_masks = isinstance(dataset, Mapping) and any("mask" in str(key) for key in dataset)
    if not has_masks or not isinstance(found(content, "image"), Mapping):
        raise NervesegError(
            f"{name} is an experiment of Hydrogen Torch, but not of image semantic segmentation: it needs the section "
            "image and a column of masks, such as dataset.rle_mask_column. Name an experiment that segments images."
        )


def _fold(content: Content) -> int:
    folds = found(content, "dataset.folds") or found(content, "dataset.selected_folds")
    if not isinstance(folds, list) or len(folds) != 1:
        raise NoCounterpartError("there is not one fold; `nerveseg crossval` trains several, of whole subjects")
    try:
        return int(str(folds[0]))
    except ValueError:
        raise NoCounterpartError("folds are integers here: renumber the dataset's column fold") from None


def _strategy(value: Any, content: Content) -> dict[str, Any]:
    if value == "automatic":
        return {"split.by": "subject"}
    if value != "kfold":
        raise NoCounterpartError(
            "validation frames come from the same dataset: give them a fold of their own in its column fold, and set "
            "split.by: fold and split.validation_fold"
        )
    return {
        "split.by": "fold",
        "split.validation_fold": _fold(content),
        "split.test_fold": None,
        "split.folds": None,
        "split.fold": None,
        "evaluate.split": "validation",
    }


def _validation_fold(_: Any, content: Content) -> dict[str, Any]:
    if found(content, "dataset.validation_strategy") != "kfold":
        raise NoCounterpartError("only dataset.validation_strategy kfold uses it")
    return {"split.validation_fold": _fold(content)}


def _validation(value: Any, content: Content) -> dict[str, Any]:
    if found(content, "dataset.validation_strategy") != "automatic":
        raise NoCounterpartError("only dataset.validation_strategy automatic uses it")
    return {"split.validation": value}


def _encoder_rate(value: Any, content: Content) -> dict[str, Any]:
    layers = found(content, "training.differential_learning_rate_layers")
    if not layers:
        return {"train.encoder_learning_rate": 1.0}
    if layers != ["backbone"]:
        raise NoCounterpartError("only that of the layers backbone, which is the encoder, has a counterpart")
    rate = number(found(content, "training.learning_rate"))
    if rate == 0:
        raise NoCounterpartError("training.learning_rate is 0")
    return {"train.encoder_learning_rate": number(value) / rate}


def _warmup(value: Any, content: Content) -> dict[str, Any]:
    epochs = number(found(content, "training.epochs"))
    if epochs <= 0:
        raise NoCounterpartError("training.epochs is not above 0")
    return {"train.warmup": number(value) / epochs}


def _optimizer(value: Any, content: Content) -> dict[str, Any]:
    name = str(value).lower()
    if name in ("adamw", "sgd"):
        return {"train.optimizer": name}
    if name == "adam" and found(content, "training.weight_decay") == 0:
        return {"train.optimizer": "adamw"}
    raise NoCounterpartError("only AdamW, SGD and, without weight decay, Adam have a counterpart")


def _flips(value: Any, _: Content) -> dict[str, Any]:
    names = [str(each).lower().replace("_", " ") for each in value] if isinstance(value, list) else [str(value)]
    if not set(names) <= {"horizontal flip", "vertical flip"}:
        raise NoCounterpartError("only flips have a counterpart, model.flips")
    return {"model.flips": bool(names)}


def _seed(value: Any, _: Content) -> dict[str, Any]:
    if value == -1:
        raise NoCounterpartError(
            "-1 draws a seed for each run, and in nerveseg a run is repeatable: train.seed stays as it is"
        )
    return {"train.seed": value}


SETTINGS = (
    as_is("architecture.architecture", "model.architecture"),
    as_is("architecture.backbone", "model.encoder", "both have the names of segmentation_models_pytorch"),
    choice("architecture.pretrained", "model.encoder_weights", {"true": "imagenet", "false": "none"}),
    Setting(
        ("image.image_height",),
        ("model.height",),
        "to the nearest multiple of 32",
        lambda value, _: {"model.height": side(value)},
    ),
    Setting(
        ("image.image_width",),
        ("model.width",),
        "to the nearest multiple of 32",
        lambda value, _: {"model.width": side(value)},
    ),
    without(
        "the network has one grey channel; ImageNet's weights for three channels are added up",
        "image.image_channels",
    ),
    without(
        "grey levels are divided by 255 and normalised by the mean and deviation of ImageNet",
        "image.image_normalization",
    ),
    choice(
        "augmentation.augmentations_strategy",
        "train.augmentation",
        {"soft": "card", "medium": "medium", "hard": "strong", "disabled": "none", "none": "none"},
        "Soft: the same, with vertical flips; Medium and Hard: the nearest level, with other changes",
        "save custom_train_augmentations as a file in augmentation/, without what resizes, crops or normalises, and "
        "name it in train.augmentation",
    ),
    without(
        "only with the strategy Custom: save it as a file in augmentation/, without what resizes, crops or normalises",
        "augmentation.custom_train_augmentations",
    ),
    without("a frame is only resized to model.height and model.width", "augmentation.custom_inference_augmentations"),
    choice("augmentation.mix_image", "train.mixing", {"disabled": "none", "mixup": "mixup", "cutmix": "cutmix"}),
    without(
        "half of the frames of a batch are mixed with another one of it, masks alike",
        *(f"augmentation.{name}" for name in ("mix_probability", "mix_concentration", "mix_iterations", "mix_target")),
        "augmentation.cutmix_corner",
    ),
    Setting(
        ("dataset.validation_strategy",),
        ("split.by", "split.validation_fold", "split.test_fold", "split.folds", "split.fold", "evaluate.split"),
        "kfold: the dataset needs a column fold, and the validation fold is scored, as no frames are left for testing; "
        "automatic: split.by: subject, since frames of one subject on both sides leak",
        _strategy,
    ),
    Setting(("dataset.folds", "dataset.selected_folds"), ("split.validation_fold",), "one fold", _validation_fold),
    Setting(("dataset.validation_size",), ("split.validation",), "a share of subjects, not of frames", _validation),
    without(
        "data.subject says who was scanned, and the split keeps each subject on one side", "dataset.group_fold_column"
    ),
    without(
        "data.uri, which names the dataset, stays as it is",
        *(f"dataset.{name}" for name in ("train_dataframe", "validation_dataframe", "test_dataframe")),
        *(f"dataset.{name}" for name in ("unlabeled_dataframe", "data_folder", "data_folder_test")),
    ),
    without(
        "the columns of the table must be called image, rle_mask and class_id",
        *(f"dataset.{name}" for name in ("image_column", "rle_mask_column", "class_name_column")),
    ),
    without("all frames are used", "dataset.data_sample", "dataset.data_sample_choice"),
    as_is("training.batch_size", "train.batch_size"),
    without("the batch size is as given", "training.automatically_adjust_batch_size"),
    without("the last batch of an epoch is always dropped if it is smaller", "training.drop_last_batch"),
    as_is("training.grad_accumulation", "train.accumulate"),
    as_is("training.epochs", "train.epochs"),
    as_is("training.learning_rate", "train.learning_rate"),
    Setting(
        ("training.differential_learning_rate",),
        ("train.encoder_learning_rate",),
        "as a factor on the learning rate; 1.0 if it is for no layers",
        _encoder_rate,
    ),
    without("see training.differential_learning_rate", "training.differential_learning_rate_layers"),
    Setting(("training.optimizer",), ("train.optimizer",), "SGD: with Nesterov momentum of 0.9", _optimizer),
    choice(
        "training.schedule",
        "train.schedule",
        {"cosine": "cosine", "constant": "constant"},
        others="the nearest to Linear is cosine",
    ),
    Setting(("training.warmup_epochs",), ("train.warmup",), "as a share of all epochs", _warmup),
    as_is("training.weight_decay", "train.weight_decay"),
    as_is("training.gradient_clip", "train.gradient_clip"),
    choice(
        "training.loss_function",
        "train.loss",
        {"bcedice": "bce_dice", "bcelovasz": "lovasz", "focaldice": "focal"},
        others="the nearest to BCE and Dice is bce_dice, to Focal focal, to Jaccard lovasz",
    ),
    without(
        "both terms of a loss have the weight 1",
        *(f"training.{name}" for name in ("bce_weight", "dice_weight", "focal_weight", "lovasz_weight")),
    ),
    choice("training.save_best_checkpoint", "train.keep", {"true": "best", "false": "last"}, "by validation Dice"),
    without("validation frames are never trained on", "training.train_validation_data"),
    without("validation follows every epoch", "training.evaluation_epochs", "training.evaluate_before_training"),
    without("the curve has the training scores of each epoch", "training.calculate_train_metric"),
    without("a delivery exports a registered version to ONNX", "training.build_scoring_pipelines"),
    as_is("prediction.probability_threshold", "model.threshold"),
    Setting(
        ("prediction.test_time_augmentations",),
        ("model.flips",),
        "the flips are those that train.augmentation has",
        _flips,
    ),
    without("evaluate reports all metrics; train.keep: best goes by Dice", "prediction.metric"),
    without("nerveseg chooses it; it changes no mask", "prediction.batch_size_inference"),
    choice(
        "environment.mixed_precision_training",
        "train.precision",
        {"true": "auto", "false": "fp32"},
        "auto: mixed where the device is faster with it",
    ),
    without("evaluate scores in fp32", "environment.mixed_precision_inference"),
    Setting(("environment.seed",), ("train.seed",), convert=_seed),
    without(
        "set in the environment: NERVESEG_DEVICE, NERVESEG_DEVICES, NERVESEG_WORKERS",
        *(f"environment.{name}" for name in ("gpus", "number_of_gpus_per_run", "number_of_workers")),
    ),
    without("`nerveseg table` trains several seeds", "environment.number_of_seeds_per_run"),
    without(
        "batch normalisation is synchronised wherever several processes train", "environment.sync_batch_normalization"
    ),
    without("set in the environment: NERVESEG_EXPERIMENT names the experiment in MLflow", "experiment_name"),
    without("MLflow logs every run", "logging"),
    Setting(
        ("not in the file",),
        ("train.recipe", "train.ema", "train.sampler", "train.patience"),
        "none of these, as in the recipe card",
        lambda *_: {"train.recipe": "card", "train.ema": None, "train.sampler": None, "train.patience": None},
    ),
)

KIND = Kind(
    name="a Hydrogen Torch experiment",
    expected="architecture.backbone, training.learning_rate and training.loss_function (Hydrogen Torch)",
    evidence=_evidence,
    settings=SETTINGS,
    implied={"not in the file": "no average of weights, no sampler, all epochs"},
    about_implied="",
    check=_check,
)
