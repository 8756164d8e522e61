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

    # MLflow reads type hints of `predict` as a signature of its own; the logged one says it better.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Segments frames.

        Args:
            model_input: `{"frames": ...}` or the array itself, uint8 grey (N, H, W), any N, H and W.

        Returns:
            `mask`, uint8 0/1, and `probability`, float32 in [0, 1], both (N, H, W).
        """
        frames = model_input["frames"] if isinstance(model_input, dict) else model_input
        probability = np.empty(frames.shape, np.float32)
        for number, found in enumerate(self._segmenter.probabilities(frames)):
            probability[number] = found
        return {"mask": self._segmenter.mask(probability), "probability": probability}


mlflow.models.set_model(Scorer())
