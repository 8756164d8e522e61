"""The three forms of the model card, all generated from one record."""

import json
import socket
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from monai.bundle import verify_metadata
from test_provenance import ORIGINS

from nerveseg.errors import NervesegError
from nerveseg.evaluation import scores
from nerveseg.evaluation.results import Metrics
from nerveseg.model.spec import ModelSpec
from nerveseg.modelcard import card
from nerveseg.modelcard.card import Card
from nerveseg.params import CardParams, EvaluateParams

SPEC = ModelSpec(architecture="Unet", encoder="resnet34", height=96, width=128, threshold=0.5)
STATED = CardParams(
    owner="St Anna's Hospital",
    contact="ultrasound@hospital.example",
    licence="cc-by-nc-4.0",
    intended_use="Teaching regional anaesthesia.",
    data_terms="consent of the patients, research only",
)
TENSOR = {
    "type": "object",
    "properties": {
        **{key: {"type": "string"} for key in ("type", "format", "modality", "dtype")},
        **{key: {"type": "array"} for key in ("spatial_shape", "value_range")},
        "num_channels": {"type": "integer"},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
TENSORS = {"type": "object", "additionalProperties": TENSOR, "minProperties": 1}
TEXTS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
# The requirements of MONAI's schema of 2024-07-25, to which the file refers; the schema itself is online.
SCHEMA = {
    "type": "object",
    "properties": {
        **{key: {"type": "string"} for key in (*TEXTS, "copyright", "intended_use", "data_source", "data_type")},
        **{key: {"type": "string"} for key in ("image_classes", "label_classes", "pred_classes")},
        **{key: {"type": "object"} for key in ("changelog", "required_packages_version", "eval_metrics")},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
            "required": ["inputs", "outputs"],
        },
    },
    "required": [*TEXTS, "copyright", "required_packages_version", "network_data_format"],
}


def metrics(
    subjects: int = 4, empty: bool = False, split: Literal["test", "validation"] = "test", subjects_known: bool = True
) -> Metrics:
    """Metrics of ten frames per subject, with Dice decreasing from subject to subject."""
    count = subjects * 10
    dice = np.linspace(0.9, 0.5, count)
    table = pd.DataFrame(
        {
            **dict.fromkeys(("dice", "iou", "nsd", "confidence", "ellipse_dice"), dice),
            **dict.fromkeys(("hd95", "centroid_error", "atypicality"), 1 - dice),
            "subject": np.repeat([f"p{number}" for number in range(subjects)], 10),
            "true_area": [0 if empty and not row else 50 for row in range(count)],
            "predicted_area": 50,
            "overlap": 40,
            "empty_dice": 0.0,
            "prior_dice": 0.3,
            "prior_half_dice": 0.2,
            "cluster": range(count),
        }
    )
    evaluate = EvaluateParams(
        split=split,
        empty="kaggle",
        nsd_tolerance=3.0,
        nsd_tolerance_mm=1.0,
        min_frames=5,
        resamples=200,
        overlays=1,
        seed=1,
    )
    histograms = np.ones((count, 4, 20))
    sweep = pd.DataFrame({"threshold": [0.5], "dice": [0.7]})
    return Metrics.model_validate(scores.summary(scores.Scores(table, histograms), sweep, evaluate, subjects_known))


def made(
    with_mask: int = 60,
    shared_subjects: int = 0,
    sides: Sequence[str] = ("test", "train"),
    stated: CardParams = STATED,
    set_aside: str = "",
    **more: Any,
) -> Card:
    splits = pd.DataFrame(
        {"frames": [40, 60], "subjects": [4, 6], "with_mask": [40, with_mask], "distinct": [38, 60]},
        index=list(sides),
    )
    figures = metrics(**more)
    return card.record(SPEC, splits, shared_subjects, figures, "s3://bucket/nerves.zip", ORIGINS, stated, set_aside)


def test_the_record_can_be_written_and_read(tmp_path: Path) -> None:
    record = made()
    path = tmp_path / "card.json"
    path.write_text(record.model_dump_json())
    assert card.read(path) == record
    path.write_text('{"version": 1}')
    with pytest.raises(NervesegError, match=r"card\.json is not a model card"):
        card.read(path)


def test_the_hub_reads_the_markdown_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    path = tmp_path / "card.md"
    path.write_text(card.markdown(made()))
    data = ModelCard.load(path).data
    assert (data.license, data.pipeline_tag) == ("cc-by-nc-4.0", "image-segmentation")
    results = {result.metric_type: result for result in data.eval_results}
    test = metrics().measured("test.dice")
    assert results["dice"].metric_value == test.value
    assert results["dice"].metric_args == {"interval_95": list(test.interval or ())}
    assert (results["dice"].dataset_name, results["dice"].dataset_split) == ("nerves.zip", "test")
    assert {"dice_by_subject", "iou", "nsd", "hd95", "worst_subject"} <= set(results)
    assert "presence_specificity" not in results, "undefined without empty frames"


def test_every_form_shows_the_metrics_with_their_intervals() -> None:
    record, found = made(), json.loads(json.dumps(metrics().record))
    low, high = found["test"]["dice_ci"]
    text = card.markdown(record)
    assert f"| Dice, mean over frames | {found['test']['dice']:.4f} | {low:.4f} to {high:.4f} |" in text
    assert "| Dice of the mean training mask | 0.3000 | 0.3000 to 0.3000 |" in text
    worst, worst_low, worst_high = found["test"]["worst_subject"], *found["test"]["worst_subject_ci"]
    assert f"| Dice of the worst subject, p3 | {worst:.4f} | {worst_low:.4f} to {worst_high:.4f} |" in text
    assert "covers that subject's mean, not the ranking" in text
    assert "| Dice of the mean training mask, thresholded at 0.5 | 0.2000 |" in text
    short = card.description(record)
    assert f"Dice {found['test']['dice']:.3f} ({low:.3f} to {high:.3f})" in short
    assert "40 test frames of 4 subjects" in short
    assert f"worst subject, p3: {worst:.3f} ({worst_low:.3f} to {worst_high:.3f})" in short
    assert "covers that subject's mean, not the ranking" in short
    assert "mean training mask: 0.300" in short
    evaluated = card.bundle_metadata(record)["eval_metrics"]
    assert (evaluated["test.dice"], evaluated["test.dice_ci"]) == (found["test"]["dice"], [low, high])
    assert evaluated["baseline.prior.dice"] == found["baseline"]["prior"]["dice"]


def test_limits_are_listed_only_if_they_apply() -> None:
    only_nerves = "Trained on frames with a nerve only"
    first = made(with_mask=60)
    assert first.limits[0].startswith(only_nerves)
    for form in (card.markdown(first), card.description(first), card.bundle_metadata(first)["description"]):
        assert only_nerves in form
    second = made(with_mask=30, shared_subjects=2, empty=True)
    assert not any(only_nerves in limit for limit in second.limits)
    assert "2 subjects are in more than one split" in card.description(second)
    assert "test frames exist and were not scored" in card.markdown(made(split="validation"))
    untested = made(split="validation", sides=["validation", "train"])
    assert "none were held out for testing" in card.markdown(untested)
    assert "| train | 60 | 60 | 6 | 30 |" in card.markdown(second)


def test_every_form_states_what_the_owner_does_and_nothing_of_this_project() -> None:
    record = made()
    assert record.unstated == []
    text, metadata = card.markdown(record), card.bundle_metadata(record)
    assert all(said in text for said in STATED.model_dump().values())
    assert (metadata["authors"], metadata["copyright"]) == (STATED.owner, f"{STATED.owner}; licence: cc-by-nc-4.0")
    assert metadata["intended_use"].startswith("Teaching regional anaesthesia. Out of scope: ")
    nothing = made(stated=CardParams(**dict.fromkeys(STATED.model_dump())))
    assert nothing.unstated == [f"card.{name}" for name in STATED.model_dump()]
    text, metadata = card.markdown(nothing), card.bundle_metadata(nothing)
    assert "- Owner: not stated" in text
    assert "\nlicense:" not in text, "the hub shows none"
    assert metadata["copyright"] == "not stated; licence: not stated"
    for form in (text, json.dumps(metadata)):
        assert not any(claim in form for claim in ("authors of nerveseg", "apache"))


def test_a_card_of_an_older_version_is_read(tmp_path: Path) -> None:
    former = json.loads(made().model_dump_json())
    for name in ("owner", "contact", "data_terms"):
        del former[name]
    (tmp_path / "card.json").write_text(json.dumps(former))
    assert card.read(tmp_path / "card.json").unstated == ["card.owner", "card.contact", "card.data_terms"]


def test_averaging_is_mentioned() -> None:
    record = made()
    assert "mean over" not in card.markdown(record).partition("## Input and output")[2]
    for flips, told in ((("horizontal", "vertical"), "flips"), (("horizontal",), "horizontal flip")):
        averaged = record.model_copy(update={"network": SPEC.model_copy(update={"flips": flips, "members": 5})})
        assert f"It is the mean over 5 networks and over the frame and its {told}." in card.markdown(averaged)


def test_monai_verifies_the_metadata(tmp_path: Path) -> None:
    written, schema = tmp_path / "metadata.json", tmp_path / "schema.json"
    content = card.bundle_metadata(made())
    written.write_text(json.dumps(content))
    schema.write_text(json.dumps(SCHEMA))  # MONAI does not download an existing one
    verify_metadata(written, schema)
    assert content["pytorch_version"] == version("torch")
    assert content["network_data_format"]["inputs"]["frames"]["spatial_shape"] == [96, 128]
    del content["copyright"]
    written.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="copyright"):
        verify_metadata(written, schema)


def test_every_form_says_that_subjects_are_unknown_and_what_follows() -> None:
    known, unknown = made(), made(subjects_known=False)
    assert unknown.limits[0].startswith("The subjects of the frames are unknown: a person may have frames both")
    assert "too narrow" in unknown.limits[0]
    for form in (card.markdown(unknown), card.description(unknown), card.bundle_metadata(unknown)["description"]):
        assert unknown.limits[0] in form
    for text in (card.markdown(unknown), card.description(unknown)):
        assert "40 test frames of unknown subjects" in text
        assert "by resampling frames, because the subjects are unknown" in text
        assert "4 subjects" not in text
        assert "Dice of the worst subject, subjects are unknown" in text
    text = card.markdown(unknown)
    assert "| test | 40 | 38 | unknown | 0 |" in text
    assert "No subject is in more than one" not in text
    assert not any("unknown" in limit for limit in known.limits)
    assert "No subject is in more than one of them." in card.markdown(known)


def test_a_card_of_a_version_before_unknown_subjects_is_read(tmp_path: Path) -> None:
    content = made().model_dump(mode="json")
    del content["scored"]["subjects_known"]
    (path := tmp_path / "card.json").write_text(json.dumps(content))
    assert card.read(path) == made()


def test_frames_that_were_set_aside_are_a_limit() -> None:
    limit = (
        "Frames set aside because of errors in the dataset: 1 of 30. How the model does on frames like them is unknown."
    )
    assert f"- {limit}\n" in card.markdown(made(set_aside="1 of 30"))
    assert limit in card.bundle_metadata(made(set_aside="1 of 30"))["description"]
    assert not any("set aside" in each for each in made().limits)
