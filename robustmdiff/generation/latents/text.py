"""The latent space of texts: the principal components of which phrases a text has."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustmdiff.generation.latents.latent import Latent
from robustmdiff.generation.latents.phrases import Phrases
from robustmdiff.generation.latents.principal import Components
from robustmdiff.refusal import Refusal


class TextLatent(Latent):
    """z = encode(texts), float32 [n, k] of unit size; texts ~ decode(z), as lists of whole phrases.

    A text is its set of phrases, each as it stands in at least `min_count` training texts: their order is
    that of the writer, and phrases that training texts do not have in common are not kept. A phrase is
    written where its score passes the threshold that made fewest errors on the training texts.

    phrases    what can be read and written, P of them
    max_words  a longer text is read so far, with a warning that says where
    """

    threshold: Tensor

    def __init__(self, phrases: Mapping[str, Any], k: int = 64, max_words: int = 512) -> None:
        super().__init__()
        self.phrases = Phrases(**phrases)
        self.shape, self.max_words = (k,), max_words
        self.options = {"phrases": self.phrases.to_json(), "k": k, "max_words": max_words}
        self.components = Components(len(self.phrases.known), k)
        self.register_buffer("threshold", torch.ones(len(self.phrases.known)))

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        k: int = 64,
        *,
        min_count: int = 3,
        most: int = 2000,
        max_words: int = 512,
    ) -> TextLatent:
        """Learned from training texts alone, in seconds; with the `most` frequent phrases."""
        phrases = Phrases.mine(texts, min_count, most)
        if not phrases.known:
            raise Refusal(
                f"no phrase stands in min_count = {min_count} of {len(texts)} texts, expected at least one"
            )
        latent = cls(phrases.to_json(), k, max_words)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "text .* has no known phrase", UserWarning)  # a rare one
            bag = latent.bag(texts)
        latent.components.fit(bag)
        expected = latent.components.rebuild(latent.components.project(bag))
        latent.threshold.copy_(fewest_errors(expected, bag > 0))
        return latent.eval()

    def bag(self, texts: Sequence[str]) -> Tensor:
        """Which phrases each text has, float32 [n, P]. Warns of a text that is too long, and of one that
        says nothing that is known: it reads as an empty one."""
        bag = torch.zeros(len(texts), len(self.phrases.known))
        for i, text in enumerate(texts):
            found = self.phrases.read(self._cut(text, i))
            if text.strip() and not found:
                warnings.warn(f"text {i} has no known phrase: it is read as an empty one", stacklevel=2)
            bag[i, list(found)] = 1
        return bag

    def encode(self, texts: Sequence[str]) -> Tensor:
        return self.components.project(self.bag(texts).to(self.threshold))

    def scores(self, z: Tensor) -> Tensor:
        """[n, P] by how much each phrase passes its threshold; the mean over draws is a vote."""
        self.check_latents(z)
        return self.components.rebuild(z) - self.threshold

    def write(self, scores: Tensor) -> list[str]:
        """The texts of scores [n, P]; "" where no phrase has one above 0."""
        return [self.phrases.write(row) for row in scores.tolist()]

    def decode(self, z: Tensor) -> list[str]:
        return self.write(self.scores(z))

    def _cut(self, text: str, i: int) -> str:
        words = list(re.finditer(r"\S+", text))
        if len(words) <= self.max_words:
            return text
        last = words[self.max_words - 1]
        warnings.warn(
            f"text {i} has {len(words)} words: it is read up to word {self.max_words}, {last[0]!r}, "
            f"character {last.end()}",
            stacklevel=3,
        )
        return text[: last.end()]


def fewest_errors(scores: Tensor, target: Tensor) -> Tensor:
    """The threshold of each column [P] above which `scores` [n, P] agree most often with `target`, bool
    [n, P]; 1 where none is better than never."""
    scores, order = scores.sort(dim=0, descending=True)
    right = (2 * target.gather(0, order).int() - 1).cumsum(dim=0)  # hits less false alarms, of the first 1..n
    most, last = right.max(dim=0, keepdim=True)
    following = torch.cat([scores[1:], scores[-1:] - 1]).gather(0, last)
    return torch.where(most > 0, (scores.gather(0, last) + following) / 2, 1.0)[0]
