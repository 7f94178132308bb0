"""Words as tokens, for captions with a small vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

PAD, START = 0, 1


class WordTokenizer:
    """Splits captions at spaces; 0 is padding, 1 the start, the largest number the end.

    Args:
        captions: Texts whose words make up the vocabulary, in alphabetical order.
        context: Length of a tokenised text, with start and end.

    Example:
        >>> tokenizer = WordTokenizer(["a red circle"], context=6)
        >>> tokenizer(["a circle", "red"]).tolist(), tokenizer.vocabulary
        ([[1, 2, 3, 5, 0, 0], [1, 4, 5, 0, 0, 0]], 6)
    """

    def __init__(self, captions: Iterable[str], context: int) -> None:
        words = sorted({word for caption in captions for word in caption.split()})
        self.numbers = {word: number for number, word in enumerate(words, start=START + 1)}
        self.context, self.end = context, len(words) + START + 1

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.end + 1

    def __call__(self, captions: Sequence[str]) -> Int64[Tensor, "batch context"]:
        """Return token numbers.

        Raises:
            ValueError: If a word is unknown or a caption too long.
        """
        tokens = torch.full((len(captions), self.context), PAD)
        for row, caption in zip(tokens, captions, strict=True):
            words = caption.split()
            if unknown := [word for word in words if word not in self.numbers]:
                raise ValueError(f"captions has the word {unknown[0]!r}, which is not in the vocabulary")
            numbers = [START, *(self.numbers[word] for word in words), self.end]
            if len(numbers) > self.context:
                raise ValueError(
                    f"captions has one of {len(words)} words; context={self.context} holds {self.context - 2}"
                )
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens
