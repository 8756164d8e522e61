"""nnU-Net, version 2: `plans.json` (or `nnUNetPlans.json`) and `dataset.json`.

The plans do not say how the network is trained: that is in the code of `nnUNetTrainer`, whose settings are imported
along with them.
"""

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
    plain,
    side,
    without,
)

_2D = "configurations.2d"
_BACKGROUND = "background"


def _planned(content: Content) -> str:
    configurations = found(content, "configurations")
    if not isinstance(configurations, Mapping) or found(content, "dataset_name") is None:
        return ""
    return f"it has dataset_name and configurations: {plain(', '.join(map(str, configurations))) or 'none'}"


def _check_plans(content: Content, name: str) -> None:
    if not isinstance(found(content, _2D), Mapping):
        there = plain(", ".join(map(str, content["configurations"]))) or "none"
        raise NervesegError(
            f"{name} has the configurations {there}, but not 2d, and nerveseg segments single frames. Run "
            "nnUNetv2_plan_experiment on single frames, and import the plans that it writes."
        )


def _size(value: Any, _: Content) -> dict[str, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise NoCounterpartError("it is not a height and a width")
    return {"model.height": side(value[0]), "model.width": side(value[1])}


PLANS = (
    Setting(
        (f"{_2D}.patch_size",),
        ("model.height", "model.width"),
        "each to the nearest multiple of 32; frames are resized to it, where nnU-Net takes patches of this size",
        _size,
    ),
    as_is(f"{_2D}.batch_size", "train.batch_size"),
    choice(
        f"{_2D}.batch_dice",
        "train.loss",
        {"true": "bce_dice", "false": "image_dice"},
        "cross-entropy and Dice, over the batch or of each frame",
    ),
    without(
        "model.architecture and model.encoder stay as they are: networks of segmentation_models_pytorch",
        *(f"{_2D}.{name}" for name in ("architecture", "UNet_class_name", "UNet_base_num_features")),
        *(f"{_2D}.{name}" for name in ("n_conv_per_stage_encoder", "n_conv_per_stage_decoder", "num_pool_per_axis")),
        *(f"{_2D}.{name}" for name in ("pool_op_kernel_sizes", "conv_kernel_sizes", "unet_max_num_features")),
    ),
    without(
        "grey levels are divided by 255 and normalised by the mean and deviation of ImageNet",
        *(f"{_2D}.{name}" for name in ("normalization_schemes", "use_mask_for_norm")),
        "foreground_intensity_properties_per_channel",
    ),
    without(
        "frames are resized to model.height and model.width, whatever their pixel spacing",
        *(f"{_2D}.{name}" for name in ("spacing", "median_image_size_in_voxels")),
        *(f"{_2D}.resampling_fn_{name}" for name in ("data", "seg", "probabilities")),
        *(f"{_2D}.resampling_fn_{name}_kwargs" for name in ("data", "seg", "probabilities")),
        "original_median_spacing_after_transp",
        "original_median_shape_after_transp",
        "transpose_forward",
        "transpose_backward",
    ),
    without("the split stage prepares the frames", f"{_2D}.data_identifier", f"{_2D}.preprocessor_name"),
    without(
        "nerveseg segments single frames",
        *(f"configurations.3d_{name}" for name in ("fullres", "lowres", "cascade_fullres")),
    ),
    without("data.uri, which names the dataset, stays as it is", "dataset_name"),
    without("of no use outside nnU-Net", "plans_name", "experiment_planner_used", "label_manager"),
    without("data.layout says how files are read", "image_reader_writer"),
    choice(
        "nnUNetTrainer.optimizer",
        "train.optimizer",
        {"sgd": "sgd"},
        "with Nesterov momentum of 0.9, not 0.99 as in nnU-Net",
    ),
    as_is("nnUNetTrainer.initial_lr", "train.learning_rate", "at the lower momentum, a step is about a tenth as long"),
    choice(
        "nnUNetTrainer.lr_scheduler",
        "train.schedule",
        {"polylrscheduler": "cosine"},
        "both decay to zero: the cosine step by step, nnU-Net's polynomial epoch by epoch and almost linearly",
    ),
    as_is("nnUNetTrainer.weight_decay", "train.weight_decay"),
    as_is("nnUNetTrainer.gradient_clip", "train.gradient_clip"),
    choice(
        "nnUNetTrainer.augmentation",
        "train.augmentation",
        {"default": "strong"},
        "the nearest level: nnU-Net also flips vertically, and rotates nearly square patches by any angle",
    ),
    choice(
        "nnUNetTrainer.use_mirroring",
        "model.flips",
        {"true": True},
        "the flips are those that train.augmentation has, horizontal ones for strong",
    ),
    choice("nnUNetTrainer.pretrained", "model.encoder_weights", {"false": "none"}, "from scratch"),
    choice("nnUNetTrainer.checkpoint", "train.keep", {"final": "last"}),
    choice("nnUNetTrainer.autocast", "train.precision", {"true": "auto"}, "mixed where the device is faster with it"),
    without(
        "train.epochs stays as it is: an epoch of nnU-Net has 250 batches, one of nerveseg every training frame once. "
        "For as many batches, set it to 250000 * train.batch_size / training frames",
        "nnUNetTrainer.num_epochs",
        "nnUNetTrainer.num_iterations_per_epoch",
    ),
    without(
        "train.sampler balances subjects or clusters; frames with a nerve are not drawn more often",
        "nnUNetTrainer.oversample_foreground_percent",
    ),
    without("the loss is computed at full resolution only", "nnUNetTrainer.enable_deep_supervision"),
    without(
        "split stays as it is: nnU-Net's five folds divide cases, so a subject may be in several; `nerveseg crossval` "
        "makes folds of subjects",
        "nnUNetTrainer.fold",
    ),
)

# What nnUNetTrainer 2.5 sets in its code.
_TRAINER = {
    "optimizer": "SGD",
    "initial_lr": 0.01,
    "lr_scheduler": "PolyLRScheduler",
    "weight_decay": 3e-5,
    "gradient_clip": 12,
    "augmentation": "default",
    "use_mirroring": True,
    "pretrained": False,
    "checkpoint": "final",
    "autocast": True,
    "num_epochs": 1000,
    "num_iterations_per_epoch": 250,
    "oversample_foreground_percent": 0.33,
    "enable_deep_supervision": True,
    "fold": "0 to 4",
}

PLANS_KIND = Kind(
    name="an nnU-Net plans file",
    expected="dataset_name and configurations (nnU-Net's plans.json)",
    evidence=_planned,
    settings=PLANS,
    implied={f"nnUNetTrainer.{name}": value for name, value in _TRAINER.items()},
    about_implied="Plans do not say how a network is trained: what is called nnUNetTrainer here are the settings of "
    "nnU-Net's default trainer. If you had another one, change them in the profile.",
    check=_check_plans,
)


def _described(content: Content) -> str:
    labels = found(content, "labels")
    channels = next((name for name in ("channel_names", "modality") if name in content), "")
    return f"it has labels and {channels}" if isinstance(labels, Mapping) and channels else ""


def _classes(value: Any, _: Content) -> dict[str, Any]:
    names = _names(value)
    if len(names) < 2:
        return {"data.classes": None}
    listed = ", ".join(names)
    raise NoCounterpartError(
        f"there are several, {listed}: set data.classes to those that are nerve, such as data.classes: [{names[0]}]"
    )


def _names(labels: Any) -> list[str]:
    """The names of the labels besides the background, also as version 1 has them, number to name."""
    if not isinstance(labels, Mapping):
        raise NoCounterpartError("it is not a section")
    if any(isinstance(value, list) for value in labels.values()):
        raise NoCounterpartError(
            "it has regions, of several labels each: set data.classes to the labels that are nerve"
        )
    if "ignore" in labels:
        raise NoCounterpartError(
            "pixels of the label ignore would count as background: leave out the frames that have some"
        )
    named = [str(name) for name in (labels.values() if str(labels.get("0")) == _BACKGROUND else labels)]
    return [name for name in named if name != _BACKGROUND]


DATASET = (
    Setting(
        ("labels",),
        ("data.classes",),
        "null if there is one label besides the background; otherwise choose those that are nerve, by name or number",
        _classes,
    ),
    without("the network has one grey channel: a frame is one file", "channel_names", "modality"),
    without("each file says by its suffix what it is", "file_ending"),
    without("data.layout says how files are read", "overwrite_image_reader_writer", "image_reader_writer"),
    without("a mask has one class, nerve", "regions_class_order"),
    without("split counts the frames", "numTraining", "numTest", "training", "test"),
    without(
        "the section card of params.yaml says whose the data is, and under which terms",
        *("name", "description", "reference", "licence", "license", "release", "citation", "converted_by"),
        *("dataset_name", "tensorImageSize"),
    ),
)

DATASET_KIND = Kind(
    name="an nnU-Net dataset file",
    expected="labels and channel_names (nnU-Net's dataset.json)",
    evidence=_described,
    settings=DATASET,
    implied={},
    about_implied="",
    check=lambda _content, _name: None,
)
