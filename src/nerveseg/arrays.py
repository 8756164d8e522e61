"""Arrays by what they hold, for signatures; docstrings give shapes."""

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]  # grey levels
Mask = npt.NDArray[np.uint8]  # 1 where there is nerve, else 0
Probability = npt.NDArray[np.float32]  # of nerve, in [0, 1]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
