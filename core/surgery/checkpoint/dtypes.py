"""Dtypes of safetensors files by torch's names, without torch."""

from __future__ import annotations

CODES = {
    "BOOL": ("bool", 1), "U8": ("uint8", 1), "I8": ("int8", 1), "U16": ("uint16", 2),
    "I16": ("int16", 2), "U32": ("uint32", 4), "I32": ("int32", 4), "U64": ("uint64", 8),
    "I64": ("int64", 8), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "F32": ("float32", 4),
    "F64": ("float64", 8), "C64": ("complex64", 8), "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1), "F8_E8M0": ("float8_e8m0fnu", 1),
}  # fmt: skip
"""For each code of the file format: the dtype's name and its size in bytes."""

NAMES = {name: code for code, (name, _) in CODES.items()}
"""The code of each dtype's name."""


def size_of(dtype: str) -> int:
    """Give the size of one element in bytes, by torch's name of the dtype."""
    return CODES[NAMES[dtype]][1]
