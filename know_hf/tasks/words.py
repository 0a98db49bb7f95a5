"""A tokenizer of whole words, made of the captions that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}


def word_tokenizer(
    captions: Iterable[str], vocabulary: int = 8000, longest: int | None = None
) -> PreTrainedTokenizerFast:
    """Makes a tokenizer of the words that occur in captions, in lower case, the most frequent first.

    Args:
        captions: The texts.
        vocabulary: Most words that are known; the others are one unknown word.
        longest: Longest caption in words, its end not counted; by default that of the longest text.

    Returns:
        The tokenizer, with marks for beginning, end, padding and unknown words.

    Example:
        >>> from know_hf.tasks.words import word_tokenizer
        >>> tokenizer = word_tokenizer(["a cat", "A dog"])
        >>> tokenizer("a dog a bird")["input_ids"]
        [4, 6, 4, 1]
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = [caption.lower().split() for caption in captions]
    counts = Counter(word for words in texts for word in words)
    words = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]
    known = {word: i for i, word in enumerate([*_SPECIAL.values(), *words])}
    made = Tokenizer(models.WordLevel(known, unk_token=_SPECIAL["unk_token"]))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    limit = max(map(len, texts), default=0) if longest is None else longest
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=limit + 1, **_SPECIAL)
