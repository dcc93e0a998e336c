"""The dtypes of the safetensors format, and the torch dtypes that they stand for."""

from __future__ import annotations

KINDS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
"""For each code of the format: the name of its torch dtype."""

CODES = {name: code for code, name in KINDS.items()}
"""The code of each dtype's name."""


def size_of(dtype: str) -> int:
    """Give the size of one element in bytes, by torch's name of the dtype.

    Raises:
        KeyError: the format has no such dtype.
    """
    bits = CODES[dtype].partition("_")[0].lstrip("BFCIU")
    return int(bits) // 8 if bits.isdigit() else 1
