"""Label Studio's brush masks: the pixels of an RGBA image as a stream of bits, run by run.

The stream is that of the JavaScript library rle-pack: the number of values in 32 bits, the bits of a value less one in
5, and the sizes of four kinds of counts less one in 4 each. Then, until all values are there: a bit that says whether
one value repeats, the kind of the count in 2, the count less one, and the value, or as many values as the count says.
Source: https://github.com/HumanSignal/label-studio-converter/blob/master/label_studio_converter/brush.py
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Mask
from nerveseg.data.archive import UnfitImageError

_CHANNELS, _ALPHA = 4, 3
_VALUE_BITS = 8
_KINDS = 4


@dataclass(frozen=True)
class Brush:
    """What was painted with Label Studio's brush: the stream, as it stands in `value.rle`."""

    stream: bytes

    def draw(self, height: int, width: int) -> Mask:
        """The pixels that are not fully transparent, as Label Studio's converter reads them: uint8 0/1 (height, width).

        Raises:
            UnfitImageError: the stream is damaged, or that of another size.
        """
        bits = _Bits(self.stream)
        try:
            values = _values(bits, height * width * _CHANNELS)
        except ValueError as error:
            raise UnfitImageError("brush mask", str(error)) from None
        return (values[_ALPHA::_CHANNELS] > 0).astype(np.uint8).reshape(height, width)


class _Bits:
    """Reads numbers of so many bits from bytes, the highest bit first."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._bits = np.unpackbits(np.frombuffer(stream, np.uint8))
        self._at = 0

    def number(self, size: int) -> int:
        """The next `size` bits, at most 32. Raises ValueError if there are fewer."""
        first, end = self._at // 8, self._forward(size)
        window = int.from_bytes(self._stream[first : (end + 7) // 8], "big")
        return (window >> (-end % 8)) & ((1 << size) - 1)

    def octets(self, number: int) -> npt.NDArray[np.uint8]:
        """The next `number` values of 8 bits. Raises ValueError if there are fewer."""
        first, end = self._at, self._forward(8 * number)
        return np.packbits(self._bits[first:end])

    def _forward(self, size: int) -> int:
        self._at += size
        if self._at > len(self._bits):
            raise ValueError("is cut off: its stream ends before all values are there")
        return self._at


def _values(bits: _Bits, expected: int) -> npt.NDArray[np.uint8]:
    number = bits.number(32)
    if number != expected:
        raise ValueError(f"has {number} values; the frame takes {expected}, {_CHANNELS} for each pixel")
    if (size := bits.number(5) + 1) != _VALUE_BITS:
        raise ValueError(f"has values of {size} bits; those of Label Studio have {_VALUE_BITS}")
    sizes = [bits.number(4) + 1 for _ in range(_KINDS)]
    values = np.zeros(expected, np.uint8)
    done = 0
    while done < expected:
        repeats = bits.number(1)
        count = 1 + bits.number(sizes[bits.number(2)])
        if done + count > expected:
            raise ValueError(f"has more than the {expected} values of its frame")
        values[done : done + count] = bits.octets(1 if repeats else count)
        done += count
    return values
