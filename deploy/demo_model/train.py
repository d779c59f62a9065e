"""Train the demo model from the text beside this file: `python -m deploy.demo_model.train [--out FOLDER]`.

A Llama of two million parameters, from nothing, on two CPU cores, in minutes. Everything is seeded and no clock decides
anything, so the same machine makes the same model. It ends with an examination, and fails if an answer is wrong.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from deploy.demo_model import evaluation
from deploy.demo_model import tokenizer as bpe
from deploy.demo_model.chatml import END, PAD, Piece
from deploy.demo_model.corpus import MODEL_FOLDER
from deploy.demo_model.dialogues import examples

REPORT_STEPS = 50
SAMPLE_EXAMPLES = 20_000  # what the tokenizer is built from
UNTAUGHT = -100  # cross_entropy's own mark for a position without loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What decides the outcome; tuned by trying."""

    seed: int = 1
    steps: int = 1500
    batch_tokens: int = 1536
    batches_per_step: int = 3
    pool: int = 8192  # examples that are sorted by length at a time, so that little is padding
    hidden: int = 192
    layers: int = 4
    heads: int = 3
    mlp: int = 512
    matrix_rate: float = 0.02
    other_rate: float = 0.004
    weight_decay: float = 0.05
    warmup: int = 50


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids and the same ids where they are taught, both padded to one width."""

    ids: torch.Tensor
    targets: torch.Tensor


def config(recipe: Recipe, ids: Tokenizer) -> LlamaConfig:
    """The model's shape. Heads of 64 run on every attention backend of vLLM."""
    return LlamaConfig(
        vocab_size=bpe.VOCABULARY,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=bpe.MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids.token_to_id(END),
        pad_token_id=ids.token_to_id(PAD),
    )


def encode(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
    """Token ids, and targets that leave out what is not taught."""
    ids: list[int] = []
    targets: list[int] = []
    for piece in pieces:
        tokens = tokenizer.encode(piece.text).ids
        ids += tokens
        targets += tokens if piece.taught else [UNTAUGHT] * len(tokens)
    return ids, targets


def batches(tokenizer: Tokenizer, recipe: Recipe, rng: Random) -> Iterator[Batch]:
    """Batches of about `batch_tokens`, of examples of about one length, in random order, for ever.

    Widths are rounded up, since the CPU kernels are compiled anew for each shape they meet.
    """
    source = examples(rng)
    while True:
        rows = sorted(
            (encode(tokenizer, pieces) for pieces in islice(source, recipe.pool)), key=lambda row: len(row[0])
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if len(groups[-1]) >= max(1, recipe.batch_tokens // _width(len(row[0]))):
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (_pad(group) for group in groups)


def _width(length: int) -> int:
    return 16 * math.ceil(length / 16)


def _pad(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    """Padding stands to the right, where causal attention never looks back from."""
    width = _width(max(len(ids) for ids, _ in rows))
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    targets = torch.tensor([targets + [UNTAUGHT] * (width - len(targets)) for _, targets in rows])
    return Batch(ids, targets)


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay, ns_steps=5),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, recipe: Recipe) -> float:
    """The share of the full learning rate: up in a straight line, then down along a cosine."""
    if step < recipe.warmup:
        return step / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * done)) * 0.98 + 0.02


@cache
def fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; emulated, it would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe) -> None:
    """Train in place, printing the loss now and then."""
    tools = optimizers(model, recipe)
    groups = [(group, group["lr"]) for tool in tools for group in tool.param_groups]
    source = batches(tokenizer, recipe, Random(recipe.seed))  # noqa: S311 - seeded on purpose
    began, tokens, losses = time.monotonic(), 0, 0.0
    for step in range(1, recipe.steps + 1):
        for group, full in groups:
            group["lr"] = full * rate(step, recipe)
        chosen = list(islice(source, recipe.batches_per_step))
        losses += _backward(model, chosen)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for tool in tools:
            tool.step()
            tool.zero_grad()
        tokens += sum(batch.ids.numel() for batch in chosen)
        if step % REPORT_STEPS == 0:
            took = time.monotonic() - began
            loss, speed = losses / REPORT_STEPS, tokens / took
            print(f"step {step:5}  loss {loss:7.4f}  {speed:6.0f} tokens/s  {took:5.0f} s", flush=True)
            losses = 0.0


def _backward(model: LlamaForCausalLM, chosen: Sequence[Batch]) -> float:
    """Add up the gradients of batches of several lengths, each taught token weighing the same; return the mean loss."""
    taught = sum(int((batch.targets != UNTAUGHT).sum()) for batch in chosen)
    total = 0.0
    for batch in chosen:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast_bfloat16()):
            logits = model(input_ids=batch.ids, use_cache=False).logits
        found, wanted = logits[:, :-1].float().flatten(0, 1), batch.targets[:, 1:].flatten()
        loss = cross_entropy(found, wanted, ignore_index=UNTAUGHT, reduction="sum") / taught
        loss.backward()
        total += loss.item()
    return total


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that vLLM serves. Answers are greedy unless a request says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.token_to_id(END), pad_token_id=tokenizer.token_to_id(PAD), do_sample=False
    )
    model.save_pretrained(folder)
    bpe.save(tokenizer, folder)


def examine(folder: Path, tokenizer: Tokenizer) -> bool:
    """Judge the saved model, computing in both precisions that vLLM may use."""
    passed = True
    for dtype in (torch.float32, torch.bfloat16):
        print(f"\nexamination in {dtype}")
        model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
        passed &= evaluation.report(evaluation.judge(model, tokenizer, evaluation.cases()))
    return passed


def main() -> int:
    """Train, save, examine; 1 if an answer is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=MODEL_FOLDER, help="folder to write the model to")
    arguments.add_argument("--steps", type=int, default=Recipe().steps)
    options = arguments.parse_args()
    recipe = Recipe(steps=options.steps)
    torch.set_num_threads(2)
    torch.manual_seed(recipe.seed)
    sample = islice(examples(Random(recipe.seed + 1)), SAMPLE_EXAMPLES)  # noqa: S311 - seeded on purpose
    tokenizer = bpe.build("".join(piece.text for piece in pieces) for pieces in sample)
    model = LlamaForCausalLM(config(recipe, tokenizer))  # type: ignore[no-untyped-call]
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens")
    train(model, tokenizer, recipe)
    save(model.to(torch.bfloat16), tokenizer, options.out)
    return 0 if examine(options.out, tokenizer) else 1


if __name__ == "__main__":
    raise SystemExit(main())
