"""The code of parity volumes, written from docs/spec/package.md section 7 alone: an oracle for zfec."""

from functools import cache

import numpy as np

POLYNOMIAL = 0x11D

_EXP = [1]
while len(_EXP) < 255:
    _DOUBLED = _EXP[-1] << 1
    _EXP.append(_DOUBLED ^ POLYNOMIAL if _DOUBLED >= 256 else _DOUBLED)
_LOG = {value: exponent for exponent, value in enumerate(_EXP)}


def times(left: int, right: int) -> int:
    return _EXP[(_LOG[left] + _LOG[right]) % 255] if left and right else 0


def inverted(matrix: list[list[int]]) -> list[list[int]]:
    """Return the inverse of a square matrix, by Gauss and Jordan."""
    size = len(matrix)
    rows = [list(row) + [int(column == number) for column in range(size)] for number, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(number for number in range(column, size) if rows[number][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = _EXP[-_LOG[rows[column][column]] % 255]
        rows[column] = [times(scale, value) for value in rows[column]]
        for number in range(size):
            if number != column and (factor := rows[number][column]):
                rows[number] = [
                    value ^ times(factor, other) for value, other in zip(rows[number], rows[column], strict=True)
                ]
    return [row[size:] for row in rows]


@cache
def coefficients(data: int, parity: int) -> list[list[int]]:
    """Return, for each parity volume, the factor of each data volume."""
    powers = [[int(column == 0) for column in range(data)]]
    powers += [[_EXP[row * column % 255] for column in range(data)] for row in range(data + parity - 1)]
    top = inverted(powers[:data])
    result = []
    for row in powers[data:]:
        factors = [0] * data
        for value, line in zip(row, top, strict=True):
            factors = [factor ^ times(value, other) for factor, other in zip(factors, line, strict=True)]
        result.append(factors)
    return result


def parity_of(slices: list[bytes], parity: int) -> list[bytes]:
    """Return the parity of byte strings; shorter ones go on with zeros."""
    length = max(map(len, slices))
    table = np.array([[times(left, right) for right in range(256)] for left in range(256)], np.uint8)
    result = []
    for factors in coefficients(len(slices), parity):
        line = np.zeros(length, np.uint8)
        for factor, data in zip(factors, slices, strict=True):
            line[: len(data)] ^= table[factor][np.frombuffer(data, np.uint8)]
        result.append(line.tobytes())
    return result
