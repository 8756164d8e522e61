"""The code of the logged model: `mlflow.pyfunc.load_model` runs this file with the weights logged next to it."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from nerveseg.model.inference import Segmenter


class NerveModel(PythonModel):
    """From frames to masks, probabilities and atypicality."""

    def load_context(self, context: PythonModelContext) -> None:
        self._segmenter = Segmenter.load(Path(context.artifacts["weights"]).parent)

    # MLflow warns about a missing type hint and about any other than this; the logged signature is more precise.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Segments frames.

        Args:
            model_input: `{"frames": ...}` or the array itself, uint8 greyscale (N, H, W), of any size.

        Returns:
            `mask`, uint8 0/1, and `probability`, float32 in [0, 1], both (N, H, W); `atypicality` of each mask, float32
            in [0, 1] (N,).

        Raises:
            MlflowException: these cannot be 8-bit frames; `mlflow models serve` answers with status 400.
        """
        frames = model_input["frames"] if isinstance(model_input, dict) else model_input
        _refuse_other_than_frames(frames)
        probability = np.empty(frames.shape, np.float32)
        for number, found in enumerate(self._segmenter.probabilities(list(frames))):
            probability[number] = found
        masks = self._segmenter.mask(probability)
        atypicality = np.array([self._segmenter.atypicality(mask) for mask in masks], np.float32)
        return {"mask": masks, "probability": probability, "atypicality": atypicality}


def _refuse_other_than_frames(frames: np.ndarray) -> None:
    """MLflow's server casts numbers to the signature's uint8 before they arrive, so that 0.7 has become 0."""
    if frames.dtype != np.uint8 or frames.ndim != 3:
        said = f"got {frames.dtype} {frames.shape}"
    elif frames.size and frames.max() <= 1:
        said = f"no value is above {frames.max()}, as in frames scaled to 0..1"
    else:
        return
    raise MlflowException.invalid_parameter_value(
        f"These are not 8-bit frames: {said}. Send uint8 grey levels from 0 to 255 in the shape (N, height, width)."
    )


mlflow.models.set_model(NerveModel())
