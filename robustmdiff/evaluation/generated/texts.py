"""Generated texts against the ones that were written: n of each, in the same order.

Words are lower-cased runs of letters, digits and hyphens; every punctuation mark is a word of its own.
ROUGE-L and BLEU count words and not what they mean: in the built-in cohort another patient's report has more
than three quarters of the ROUGE-L that the true findings have in other words. Judge by findings
(`finding_agreement`), and show these beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from torchmetrics.functional.text import bleu_score, rouge_score

from robustmdiff.ranking import Array

_WORD = re.compile(r"[\w-]+|[^\w\s]")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def rouge_l(generated: Sequence[str], real: Sequence[str]) -> Array:
    """F1 of the longest common subsequence of words (Lin 2004; beta = 1), float64 [n]; 0 of an empty text."""
    _check("rouge_l", generated, real)
    each = [
        rouge_score(g, r, rouge_keys="rougeL", normalizer=str, tokenizer=words)["rougeL_fmeasure"]
        for g, r in zip(generated, real, strict=True)
    ]
    return np.array([float(value) for value in each])


def bleu(generated: Sequence[str], real: Sequence[str]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002) of the n texts as one corpus, one reference each, no smoothing:
    not the mean over texts."""
    _check("bleu", generated, real)
    said, meant = [" ".join(words(text)) for text in generated], [[" ".join(words(text))] for text in real]
    return tuple(float(bleu_score(said, meant, n_gram=n)) for n in range(1, 5))


def distinct(generated: Sequence[str]) -> float:
    """The share of texts that differ from all before them, in (0, 1]: low where a model says one thing."""
    _check("distinct", generated, generated)
    return len({tuple(words(text)) for text in generated}) / len(generated)


def _check(name: str, generated: Sequence[str], real: Sequence[str]) -> None:
    if isinstance(generated, str) or isinstance(real, str):
        raise ValueError(f"{name}: got a single text, expected a sequence of texts")
    if len(generated) == 0 or len(generated) != len(real):
        raise ValueError(
            f"{name}: there are {len(generated)} generated and {len(real)} real texts, expected "
            "the same number, at least 1"
        )
