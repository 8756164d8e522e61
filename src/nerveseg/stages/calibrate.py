"""calibrate: the trained network's threshold, its flips, and the statistics of the training masks."""

from nerveseg import kept, paths, tracking
from nerveseg.console import console, progress
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import calibration, inference
from nerveseg.files import read_json, write_json
from nerveseg.model import network, plausibility
from nerveseg.model.device import device_name
from nerveseg.model.inference import Segmenter
from nerveseg.model.spec import ModelSpec, Plausibility, trained_flips, usable_flips, write_spec
from nerveseg.params import Params
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    """Adds `model.json` to `models/`, which completes the model, and logs the model to MLflow.

    Raises:
        NervesegError: missing or damaged inputs, no validation frames to choose a threshold on, flips that the network
            was not trained with, or a tracking server that failed.
    """
    kept.drop_recorded()  # DVC runs this stage after it has recorded train's outputs
    store = FrameStore.open(paths.PACKED)
    given = {"model.threshold": params.model.threshold, "model.flips": params.model.flips}
    training = read_json(paths.RUN_JSON)
    trained = training["params"]
    spec = ModelSpec(
        **{name: trained[f"model.{name}"] for name in ("architecture", "encoder", "height", "width")},
        threshold=0.5 if params.model.threshold == "validation" else params.model.threshold,
        flips=usable_flips(params.model.flips, trained_flips(training)),
        plausibility=_plausibility(store),
    )
    if params.model.threshold == "validation":
        spec = _with_best_threshold(spec, store)
    write_spec(spec, paths.MODELS)
    with tracking.reachable("The training is kept: once the server answers, `dvc repro` calibrates and goes on."):
        record = tracking.log_calibrated(paths.MODELS, given)
    write_json(paths.CALIBRATION_JSON, {**record, "params": given})


def _plausibility(store: FrameStore) -> Plausibility:
    """Statistics of the training masks, from which atypicality is computed."""
    with progress("masks") as bar:
        return plausibility.fit(store.mask(row) for row in bar.track(store.rows("train"), description="training masks"))


def _with_best_threshold(spec: ModelSpec, store: FrameStore) -> ModelSpec:
    """The spec with the threshold of the best mean Dice over the validation frames, by Kaggle's rule."""
    segmenter = Segmenter(network.rebuild(spec, paths.MODELS), spec, device_name(settings().device))
    histograms = inference.histograms(store, store.rows("validation"), segmenter)
    threshold, dice = calibration.best(calibration.sweep(histograms, "kaggle"))
    console.print(f"threshold {threshold:g}, chosen on the validation frames: their mean Dice is {dice:.4f}")
    return spec.model_copy(update={"threshold": threshold})


if __name__ == "__main__":
    main(run)
