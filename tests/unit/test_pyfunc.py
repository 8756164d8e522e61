"""What the served model refuses."""

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModelContext

from nerveseg.registry.pyfunc import NerveModel

FRAMES = np.full((2, 8, 9), 70, np.uint8)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((FRAMES / 255).astype(np.uint8), "no value is above 0, as in frames scaled to 0..1"),
        ((FRAMES > 0).astype(np.uint8), "no value is above 1"),
        (FRAMES / 255, "got float64"),
        (FRAMES.astype(np.uint16), "got uint16"),
        (FRAMES[0], r"got uint8 \(8, 9\)"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_cannot_be_8_bit_frames_is_refused(frames: np.ndarray, message: str, named: bool) -> None:
    context = PythonModelContext({}, {})
    with pytest.raises(MlflowException, match=f"These are not 8-bit frames: .*{message}.*0 to 255") as error:
        NerveModel().predict(context, {"frames": frames} if named else frames)
    assert error.value.get_http_status_code() == 400
