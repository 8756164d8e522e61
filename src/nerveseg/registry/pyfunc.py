"""The code of the logged model: `mlflow.pyfunc.load_model` runs this file with the weights logged next to it."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
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
        """
        frames = model_input["frames"] if isinstance(model_input, dict) else model_input
        probability = np.empty(frames.shape, np.float32)
        for number, found in enumerate(self._segmenter.probabilities(list(frames))):
            probability[number] = found
        masks = self._segmenter.mask(probability)
        atypicality = np.array([self._segmenter.atypicality(mask) for mask in masks], np.float32)
        return {"mask": masks, "probability": probability, "atypicality": atypicality}


mlflow.models.set_model(NerveModel())
