"""Build the model's byte-level BPE tokenizer: a thousand tokens, every text representable, nothing unknown.

Three things are cut apart that usual tokenizers join, because so small a model copies and ends JSON better that way:
a capitalised word and the space before it (so that "Paris" is the same token in a sentence and in JSON), each digit,
and each punctuation mark.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deploy.demo_model.chatml import CHAT_TEMPLATE, END, PAD, START, TAGS

VOCABULARY = 1024
MAX_LENGTH = 2048

_WORDS = r" ?[\p{Ll}\p{Lo}\p{M}]+|\p{Lu}[\p{Ll}\p{M}]*|\p{N}|[^\s\p{L}\p{N}\p{M}]|\s|."


def build(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer trained on `texts`; the same texts in the same order give the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)]
    tags = [AddedToken(tag, special=False, normalized=False) for tag in TAGS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(tags),
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(tags)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer with its chat template in the layout that transformers and vLLM read."""
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
