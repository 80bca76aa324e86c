"""A small sub-word tokenizer, trained offline on the training texts alone.

A text is read as it stands but for these differences, which are taken out on purpose (`spelling`):
case, the forms of one character (composed or not, full-width, ligature, unit sign), the many dashes,
quotes and blanks, and what cannot be seen. Accents, vowel signs and joiners of Indic scripts stay:
they tell words apart. Superscripts and fractions become "^9" and " 1/2", so that 10⁹ is not 109.
"""

from __future__ import annotations

import heapq
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from robustmdiff.data.patient import DataError
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
USUAL_SIZE = 2000
CHUNK = 100  # characters of a longer word that are looked at together while learning

INVISIBLE = r"[\p{Default_Ignorable_Code_Point}&&[^\u200c\u200d]]"
JOINED = r"[\p{L}\p{M}&&[^\p{Latin}\p{Greek}\p{Cyrillic}\p{Han}]]"  # scripts where joiners spell words
UP = "\ufdd0"  # stands for "^" until NFKC; no character
RAISED = {char: UP + unicodedata.normalize("NFKC", char).replace("−", "-") for char in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"}
FRACTIONS = {
    chr(code): " " + unicodedata.normalize("NFKC", chr(code)).replace("⁄", "/")
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
# Regular expressions of Oniguruma, in order; then NFKC and lower case.
SPELLINGS = {
    r"\p{Cc}": " ",
    r"(?<=[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\u200b": " ",  # there it ends a word, elsewhere it does not
    INVISIBLE: "",
    rf"(?<!{JOINED})[\u200c\u200d]": "",
    "[‐‑‒–—―−⁃﹘﹣－]": "-",
    "[‘’‚‛′ʹʼ´`]": "'",
    "[“”„‟″«»]": '"',
    "[º˚]": "°",
    "˜": "~",
    "ß": "ss",
    "ς": "σ",
}


def spelling() -> Normalizer:
    """What is made of a text before it is cut into words; offsets lead back to the text itself."""
    from tokenizers import Regex, normalizers

    return normalizers.Sequence(
        [
            *(normalizers.Replace(Regex(pattern), by) for pattern, by in SPELLINGS.items()),
            *(normalizers.Replace(char, by) for char, by in (RAISED | FRACTIONS).items()),
            normalizers.Replace(Regex(f"(?<={UP}[0-9+n-]){UP}"), ""),  # 10⁻⁶ is 10^-6
            normalizers.Replace(UP, "^"),
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"(?<=i)\u0307"), ""),  # İ in lower case
        ]
    )


def _words() -> PreTokenizer:
    """Words end at blanks and punctuation; Han characters and symbols (≥ ± °) stand alone."""
    from tokenizers import Regex, pre_tokenizers

    alone = pre_tokenizers.Split(Regex(r"\p{Han}|\p{S}"), "isolated")
    return pre_tokenizers.Sequence([alone, pre_tokenizers.BertPreTokenizer()])


def train_tokenizer(texts: Iterable[str], vocab_size: int | None = None, min_count: int = 2) -> Tokenizer:
    """Learns at most `vocab_size` lower-case word pieces from `texts`; same texts, same ids.

    Every character of the texts is a piece, at the start of words and inside ("##x") apart. Without
    vocab_size there is room for 2000 pieces, or for twice as many as there are characters where
    that is more (Chinese, Korean); where it is too small for the characters, the rarest go and a
    warning says so. Pairs of pieces seen fewer than `min_count` times are not merged, so a name that
    occurs once stays in characters. A character without a piece becomes [UNK], alone.
    """
    from tokenizers import Tokenizer, models, processors

    if vocab_size is not None and vocab_size <= len(SPECIAL):
        raise ValueError(
            f"train_tokenizer: vocab_size is {vocab_size}, expected more than {len(SPECIAL)} "
            f"({', '.join(SPECIAL)} and the characters)"
        )
    normalizer, words_of = spelling(), _words()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(
            word for word, _ in words_of.pre_tokenize_str(normalizer.normalize_str(_encodable(text)))
        )

    pieces, merges = _pieces(counts, vocab_size, min_count)
    vocab = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="[UNK]", continuing_subword_prefix="##"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words_of
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def _pieces(
    counts: Counter[str], vocab_size: int | None, min_count: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Byte-pair merges over word counts: the pieces, and the pairs in the order of merging. The
    trainer of `tokenizers` walks a hash map whose order changes from run to run, and with it ids and
    even pieces; here ties go to the alphabet."""
    chunks: Counter[tuple[str, ...]] = Counter()
    for word, n in counts.items():
        letters = (word[0], *("##" + character for character in word[1:]))
        for start in range(0, len(letters), CHUNK):
            chunks[letters[start : start + CHUNK]] += n
    alphabet, size = _alphabet(chunks, vocab_size)
    vocab = dict.fromkeys([*SPECIAL, *alphabet])

    times = [chunks[chunk] for chunk in sorted(chunks)]
    split = [list(chunk) for chunk in sorted(chunks)]
    count: Counter[tuple[str, str]] = Counter()  # of each pair of neighbours
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # chunks that may hold it
    for i, pieces in enumerate(split):
        for pair in pairwise(pieces):
            if vocab.keys() >= set(pair):
                count[pair] += times[i]
                where[pair].add(i)

    queue = [(-n, pair) for pair, n in count.items()]
    heapq.heapify(queue)
    merges: list[tuple[str, str]] = []
    while len(vocab) < size and queue:
        n, best = heapq.heappop(queue)
        if count[best] != -n:
            continue  # an old entry: the count has changed since
        if count[best] < min_count:
            break
        merged = best[0] + best[1].removeprefix("##")
        vocab[merged] = None
        merges.append(best)
        changes: Counter[tuple[str, str]] = Counter()
        for i in where[best].copy():
            for pair, more in _merge(split[i], best, merged).items():
                if vocab.keys() >= set(pair):
                    changes[pair] += more * times[i]
                    where[pair].add(i)
        changes[best] = -count[best]
        for pair in changes:
            count[pair] += changes[pair]
            heapq.heappush(queue, (-count[pair], pair))
    return list(vocab), merges


def _alphabet(chunks: Counter[tuple[str, ...]], vocab_size: int | None) -> tuple[list[str], int]:
    """The characters that become pieces, in order, and how many pieces there may be."""
    count: Counter[str] = Counter()
    for chunk, n in chunks.items():
        for piece in chunk:
            count[piece] += n
    size = max(USUAL_SIZE, 2 * len(count)) if vocab_size is None else vocab_size
    kept = sorted(count, key=lambda piece: (-count[piece], piece))[: size - len(SPECIAL)]
    if len(kept) < len(count):
        lost = 1 - sum(count[piece] for piece in kept) / count.total()
        warnings.warn(
            f"a vocabulary of {size} is too small for {len(count)} characters: the {len(count) - len(kept)} "
            f"rarest, {100 * lost:.2g} % of the texts, are read as [UNK]",
            stacklevel=4,
        )
    return sorted(kept), size


def _merge(pieces: list[str], pair: tuple[str, str], merged: str) -> Counter[tuple[str, str]]:
    """Replaces the pair wherever it stands in `pieces`; how the counts of other pairs change by it."""
    change: Counter[tuple[str, str]] = Counter()
    k = 0
    while k + 1 < len(pieces):
        if pieces[k] == pair[0] and pieces[k + 1] == pair[1]:
            for before in pieces[max(k - 1, 0) : k]:
                change[before, pair[0]] -= 1
                change[before, merged] += 1
            for after in pieces[k + 2 : k + 3]:
                change[pair[1], after] -= 1
                change[merged, after] += 1
            pieces[k : k + 2] = [merged]
        k += 1
    return change


def tokenize(tokenizer: Tokenizer, text: str, max_tokens: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and, for explanations, the (start, end) characters of `text` behind each; (0, 0) for
    special tokens. Longer texts lose their end but keep their last token, the closing [SEP].

    Whatever stands in `text` is text: "[SEP]" or "</s>" typed in a note is no special token.
    """
    text = _encodable(text)
    tokenizer.encode_special_tokens = True  # as text, that is; not among what tokenizer.json keeps
    encoding = tokenizer.encode(text)
    ends = _typed_special(tokenizer, encoding)
    if ends:
        text = "".join(" " if i in ends else character for i, character in enumerate(text, start=1))
        encoding = tokenizer.encode(text)
    ids, offsets = encoding.ids, encoding.offsets
    if len(ids) > max_tokens:
        ids, offsets = ids[: max_tokens - 1] + ids[-1:], offsets[: max_tokens - 1] + offsets[-1:]
    return ids, offsets


def _typed_special(tokenizer: Tokenizer, encoding: Encoding) -> set[int]:
    """Where special tokens end that the text itself spells. A unigram model (XLM-R, DeBERTa) finds
    them among its pieces, whatever the tokenizer is told."""
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    special -= {token.id for token in tokenizer.model.tokenize("\uffff")}  # what stands for the unknown
    return {
        end
        for id, (_, end), added in zip(
            encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True
        )
        if id in special and not added
    }


def _encodable(text: str) -> str:
    """Halves of surrogate pairs, which no UTF-8 can hold, as U+FFFD; everything else as it is."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


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
