"""A small WordPiece tokenizer, trained offline on the training texts alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from robustmdiff.data.files import write_whole
from robustmdiff.data.patient import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2000, min_count: int = 2) -> Tokenizer:
    """Learns at most `vocab_size` lower-case word pieces from `texts`; same texts, same ids.

    Pairs of pieces seen fewer than `min_count` times are not merged, so a name that occurs
    once stays in characters. A character never seen becomes [UNK].
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    words_of = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in words_of.pre_tokenize_str(normalizer.normalize_str(text)))

    vocab = {piece: id for id, piece in enumerate(_pieces(counts, vocab_size, min_count))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words_of
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def _pieces(counts: Counter[str], vocab_size: int, min_count: int) -> list[str]:
    """Byte-pair merges over word counts. The trainer of `tokenizers` walks a hash map whose order
    changes from run to run, and with it ids and even pieces; here ties go to the alphabet."""
    words = sorted(counts)
    split = [[word[0], *("##" + character for character in word[1:])] for word in words]
    alphabet = sorted({piece for pieces in split for piece in pieces})
    vocab = dict.fromkeys([*SPECIAL, *alphabet])
    if len(vocab) > vocab_size:
        raise ValueError(f"train_tokenizer: vocab_size is {vocab_size}, expected at least {len(vocab)} here")

    count: Counter[tuple[str, str]] = Counter()  # of each pair of neighbours
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # words that may hold it
    for i, pieces in enumerate(split):
        for pair in pairwise(pieces):
            count[pair] += counts[words[i]]
            where[pair].add(i)

    while len(vocab) < vocab_size and count:
        best = min(count, key=lambda pair: (-count[pair], pair))
        if count[best] < min_count:
            break
        merged = best[0] + best[1].removeprefix("##")
        vocab[merged] = None
        for i in where.pop(best):
            n = counts[words[i]]
            for pair in pairwise(split[i]):
                count[pair] -= n
            split[i] = _merge(split[i], best, merged)
            for pair in pairwise(split[i]):
                count[pair] += n
                where[pair].add(i)
        count = +count  # drops pairs that are gone
    return list(vocab)


def _merge(pieces: list[str], pair: tuple[str, str], merged: str) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] = merged
        else:
            out.append(piece)
    return out


def tokenize(tokenizer: Tokenizer, text: str, max_tokens: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and, for explanations, the (start, end) characters of `text` behind each; (0, 0) for
    special tokens. Longer texts lose their end but keep their last token, the closing [SEP]."""
    encoding = tokenizer.encode(text)
    ids, offsets = encoding.ids, encoding.offsets
    if len(ids) > max_tokens:
        ids, offsets = ids[: max_tokens - 1] + ids[-1:], offsets[: max_tokens - 1] + offsets[-1:]
    return ids, offsets


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes tokenizer.json in one step: the file is whole or not there."""
    write_whole(Path(path), tokenizer.to_str().encode())


def load_tokenizer(path: str | Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: no tokenizer there ({error.strerror}), expected tokenizer.json") from error
    except Exception as error:  # the library raises bare Exception for a broken file
        raise DataError(f"{path}: not a tokenizer ({error}), expected the JSON of save_tokenizer") from error
