"""How large a model's weights are, from the headers of its safetensors files.

A header says of each tensor its type, its shape and where it lies. No tensor is read,
so 100 GB of weights take milliseconds. The files are somebody else's: a header that
contradicts itself or its file is refused, as the library that loads them would do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.json_file import JsonFileError, open_plain, parse_object, read_object

INDEX = "model.safetensors.index.json"
# A hundred times the largest that are known: a model of 160 files has headers of 150 KB and an index of 9 MB.
_MAX_HEADER_BYTES = 16_000_000
_MAX_INDEX_BYTES = 64_000_000
_MAX_FILES = 2_000
_MAX_DIMENSIONS = 16
_MAX_NUMBER = 1 << 60

# Bits of one element.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class WeightsError(Exception):
    """The weights cannot be used. The text names the file and says why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one model."""

    files: tuple[str, ...]
    """By name, in order; what lies beside them and belongs to no tensor of the model is left out."""
    bytes_by_dtype: Mapping[str, int]
    """By safetensors' names for the types."""

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())


def measure(folder: Path) -> Weights | None:
    """Return what `folder` holds, or None when it holds no safetensors file.

    Raises WeightsError when a file is damaged or not complete, or when one is missing.
    """
    try:
        names = wanted(folder)
        if not names:
            return None
        sizes: Counter[str] = Counter()
        for name in names:
            sizes.update(_tensors(folder / name))
    except JsonFileError as error:
        raise WeightsError(str(error)) from None
    return Weights(tuple(names), dict(sorted(sizes.items())))


def wanted(folder: Path) -> list[str]:
    """Return the names of the files that vLLM would load, as vLLM chooses them.

    1. An index names them, and all of them must be there.
    2. Else all there are; but Mistral's own `consolidated` files are a second copy where there are others.
    """
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        names = _index(folder / INDEX)
        if missing := sorted(names - set(there)):
            raise WeightsError(f"not complete: {missing[0]} is missing, which {INDEX} names")
        there = sorted(names)
    else:
        there = [name for name in there if not name.startswith("consolidated")] or there
    if len(there) > _MAX_FILES:
        raise WeightsError(f"more than {_MAX_FILES:,} safetensors files; that cannot be meant")
    return there


def _index(path: Path) -> set[str]:
    names = read_object(path, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(f"{path.name} has no weight_map of file names")
    found = set(names.values())
    if odd := next((name for name in found if name != Path(name).name or not name.endswith(".safetensors")), None):
        raise WeightsError(f"{path.name} names {odd[:80]!r}, which is not a safetensors file beside it")
    return found


def _tensors(path: Path) -> Counter[str]:
    """Return the bytes of each type in one file."""
    with open_plain(path) as file:
        prefix: bytes = file.read(8)
        length = int.from_bytes(prefix, "little")
        size: int = file.seek(0, 2)
        if len(prefix) < 8 or length > size - 8:
            raise WeightsError(f"{path.name} is damaged or not complete: it ends within its header")
        if length > _MAX_HEADER_BYTES:
            raise WeightsError(f"{path.name} has a header of {length:,} bytes; that cannot be meant")
        file.seek(8)
        header = parse_object(file.read(length), f"the header of {path.name}")
    header.pop("__metadata__", None)
    spans = [_span(path.name, tensor) for tensor in header.values()]
    # The tensors fill the file without a gap, so nothing is counted twice and nothing is hidden between them.
    if _end(path.name, spans) != size - 8 - length:
        raise WeightsError(f"{path.name} is damaged or not complete: its size is not that of its tensors")
    sizes: Counter[str] = Counter()
    for dtype, start, end in spans:
        sizes[dtype] += end - start
    return sizes


def _span(name: str, tensor: Any) -> tuple[str, int, int]:
    """Return a tensor's type, and where it begins and ends."""
    match tensor:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]}:
            numbers = [*shape, start, end]
            if (
                dtype in BITS
                and len(shape) <= _MAX_DIMENSIONS
                and all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers)
            ):
                if math.prod(shape) * BITS[dtype] == (end - start) * 8:
                    return dtype, start, end
                raise WeightsError(f"{name} is damaged: a tensor's size is not that of its shape")
            if dtype not in BITS:
                raise WeightsError(f"{name} has tensors of the unknown type {dtype[:20]!r}")
    raise WeightsError(f"{name} is damaged: its header describes a tensor wrongly")


def _end(name: str, spans: Iterable[tuple[str, int, int]]) -> int:
    at = 0
    for _, start, end in sorted(spans, key=lambda span: span[1:]):
        if start != at:
            raise WeightsError(f"{name} is damaged: its tensors overlap or leave a gap")
        at = end
    return at
