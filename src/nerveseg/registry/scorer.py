"""The model that MLflow serves, as code: `mlflow.pyfunc.load_model` runs this file beside the weights it logged."""

from pathlib import Path

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from nerveseg.model.inference import Segmenter


class Scorer(PythonModel):
    """Frames in, masks and probabilities out."""

    def load_context(self, context: PythonModelContext) -> None:
        self._segmenter = Segmenter.load(Path(context.artifacts["weights"]).parent)

    def predict(
        self, context: PythonModelContext, model_input: dict[str, np.ndarray] | np.ndarray, params: dict | None = None
    ) -> dict[str, np.ndarray]:
        """Segments frames.

        Args:
            model_input: `{"frames": ...}` or the array itself, uint8 grey (N, H, W), any N, H and W.

        Returns:
            `mask`, uint8 0/1, and `probability`, float32 in [0, 1], both (N, H, W).
        """
        frames = model_input["frames"] if isinstance(model_input, dict) else model_input
        probabilities = np.stack(self._segmenter.probabilities(list(frames)))
        return {"mask": self._segmenter.mask(probabilities), "probability": probabilities}


mlflow.models.set_model(Scorer())
