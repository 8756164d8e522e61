"""Panels of frames that train shows while it goes on. Drawn without matplotlib, which takes seconds to load.

`dvc.yaml` does not name this file for train: how a panel looks is not worth a training.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from nerveseg.model import shape
from nerveseg.model.frames import resize, restore
from nerveseg.training.examples import Example
from nerveseg.training.module import THRESHOLD

_TRUTH, _PREDICTION = (0, 212, 255), (255, 200, 0)  # blue, green, red: the report's yellow and blue
_WHITE = (255, 255, 255)
_COLUMNS = 4
_LONGEST = 320  # pixels of a frame's longer side in a panel; smaller frames keep their size
_FONT, _TEXT, _LINE = cv2.FontFace("sans"), 12, 18  # pixels: size of the text, height of its line
_GAP = 4
_QUALITY = 85  # of JPEG, to 100


def first_batch(examples: Sequence[Example], batch_size: int) -> bytes:
    """A JPEG of the frames of a training's first batch as the network sees them, with the outlines of their masks."""
    part = "" if len(examples) == batch_size else f" ({len(examples)} of {batch_size} frames)"
    return _panel(examples, f"first training batch{part}:")


def validation(examples: Sequence[Example], epoch: int) -> bytes:
    """A JPEG of validation frames after an epoch, with the outlines of their masks and of what was predicted then.

    Args:
        epoch: 0: before the first one, without predictions.
    """
    return _panel(examples, f"validation frames {f'after epoch {epoch}' if epoch else 'before training'}:")


def _panel(examples: Sequence[Example], heading: str) -> bytes:
    cells = [_cell(each) for each in examples]
    height, width = np.max([cell.shape[:2] for cell in cells], axis=0) + _GAP
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    panel = np.zeros((_LINE + rows * height, columns * width, 3), np.uint8)
    words = [(heading, _WHITE), ("truth", _TRUTH)]
    words += [("prediction", _PREDICTION)] * any(each.probability is not None for each in examples)
    _write(panel, words)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        top, left = _LINE + row * height, column * width
        panel[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return cv2.imencode(".jpg", panel, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _cell(example: Example) -> np.ndarray:
    """A frame below its name, with outlines: uint8 (H, W, 3), blue, green, red."""
    scale = min(1.0, _LONGEST / max(example.frame.shape))
    height, width = (max(1, round(side * scale)) for side in example.frame.shape)
    picture = cv2.cvtColor(resize(example.frame, height, width), cv2.COLOR_GRAY2BGR)
    truth = resize(example.truth * np.uint8(255), height, width) > 127
    masks = [(truth, _TRUTH)]
    if example.probability is not None:
        masks.append((restore(example.probability, (height, width)) >= THRESHOLD, _PREDICTION))
    for mask, colour in masks:
        cv2.polylines(picture, shape.outlines(mask.astype(np.uint8)), True, colour, 1, cv2.LINE_AA)
    line = np.zeros((_LINE, width, 3), np.uint8)
    _write(line, [(_caption(example), _WHITE)])
    return np.concatenate([line, picture])


def _caption(example: Example) -> str:
    if example.dice is None:
        return example.image
    return f"Dice {example.dice:.2f}  {example.image}" if example.truth.any() else f"no nerve  {example.image}"


def _write(picture: np.ndarray, words: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    """Writes words side by side into the first line of a picture; what does not fit is cut off."""
    left = _GAP
    for word, colour in words:
        (left, _baseline), _picture = cv2.putText(picture, f"{word} ", (left, _LINE - _GAP - 1), colour, _FONT, _TEXT)
