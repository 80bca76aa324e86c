"""A text as the set of its phrases, and a set of phrases as a text: the order is left to the writer.

"Imaging: atelectasis, no effusion. Clinical: fever."
-> ("Imaging", "atelectasis"), ("Imaging", "no effusion"), ("Clinical", "fever")
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

HEADING = re.compile(r"(?:^|(?<=[.;\n]))\s*([A-Z][\w /-]{2,30}):\s")
SENTENCE = re.compile(r"[;\n]+|\.(?=\s|$)")
ITEM = re.compile(r"[;,\n]+|\.(?=\s|$)")
WORD = re.compile(r"[^\s:]+(?::[^\s:]+)*")
NEGATIONS = frozenset(
    ("no", "not", "non", "without", "negative", "free", "absent", "absence", "resolved", "clear", "denies")
)
MISTYPED = 10  # a spelling is an error where another order of two letters is so many times as frequent
SHORT = 4  # letters of a word that is never taken for an error


class Phrase(NamedTuple):
    heading: str
    words: str

    def folded(self) -> Phrase:
        """Under which spellings are one."""
        return Phrase(self.heading.lower(), self.words.lower())


class Phrases:
    """The phrases that training texts have in common, in the order in which a text tells them.

    known     as they are most often written
    counts    of each word in lower case, by which typing errors are told
    lists     whether commas part phrases; in prose full stops alone do: "no effusion, or nodule" denies both
    """

    def __init__(self, known: Iterable[Sequence[str]], counts: Mapping[str, int], lists: bool) -> None:
        self.known = [Phrase(*each) for each in known]
        self.counts, self.lists = dict(counts), lists
        self.number = {phrase.folded(): i for i, phrase in enumerate(self.known)}
        #: of each phrase, those that it says, too, itself among them; those that it denies
        self.said = [set(self._ends(phrase)) for phrase in self.known]
        self.denied = [
            set(self._ends(phrase, through=True)) - said
            for phrase, said in zip(self.known, self.said, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        return {"known": [list(p) for p in self.known], "counts": self.counts, "lists": self.lists}

    @staticmethod
    def mine(texts: Sequence[str], min_count: int, most: int) -> Phrases:
        """The `most` frequent phrases of those that at least `min_count` texts have."""
        commas, stops = (sum(text.count(mark) for text in texts) for mark in (", ", ". "))
        lists = commas > stops
        counts = Counter(word.lower() for text in texts for word in WORD.findall(ITEM.sub(" ", text)))
        counts = Counter({word: n for word, n in counts.items() if n >= min_count})
        bare = Phrases((), counts, lists)
        spellings: dict[Phrase, Counter[Phrase]] = defaultdict(Counter)
        places: dict[Phrase, list[float]] = defaultdict(list)  # from 0, where a text begins, to 1
        for text in texts:
            phrases = list(dict.fromkeys(bare.split(text)))
            for i, phrase in enumerate(phrases):
                spellings[phrase.folded()][phrase] += 1
                places[phrase.folded()].append(i / len(phrases))
        common = [phrase for phrase, each in places.items() if len(each) >= min_count]
        common = sorted(common, key=lambda phrase: (-len(places[phrase]), phrase))[:most]
        sections: dict[str, list[float]] = defaultdict(list)
        for phrase in common:
            sections[phrase.heading] += places[phrase]
        common.sort(
            key=lambda phrase: (
                fmean(sections[phrase.heading]),
                phrase.heading,
                fmean(places[phrase]),
                phrase,
            )
        )
        known = [min(spellings[p].items(), key=lambda item: (-item[1], item[0]))[0] for p in common]
        return Phrases(known, counts, lists)

    def split(self, text: str) -> Iterator[Phrase]:
        """The phrases of a text, known or not, typing errors undone."""
        first, *parts = HEADING.split(text)
        for heading, body in zip(["", *parts[::2]], [first, *parts[1::2]], strict=True):
            heading = self._corrected(heading)
            for part in (ITEM if self.lists else SENTENCE).split(body):
                if words := self._corrected(part):
                    yield Phrase(heading, words)

    def read(self, text: str) -> set[int]:
        """Numbers of the known phrases, and of those that they end with: "possible atelectasis" says
        "atelectasis", too; "no atelectasis" does not."""
        return {number for phrase in self.split(text) for number in self._ends(phrase)}

    def write(self, scores: Sequence[float]) -> str:
        """The text of the phrases with a score above 0; of two that contradict each other the one with more.
        Nothing is written that another phrase says already."""
        on = {i for i, score in enumerate(scores) if score > 0}
        denials = [(i, j) for i in on for j in self.denied[i] & on]
        on -= {i if scores[i] < scores[j] else j for i, j in denials}
        on -= {said for i in on for said in self.said[i] if said != i}
        between = ", " if self.lists else ". "
        sections = groupby((self.known[i] for i in sorted(on)), key=lambda phrase: phrase.heading)
        return " ".join(
            (f"{heading}: " if heading else "") + between.join(phrase.words for phrase in phrases) + "."
            for heading, phrases in sections
        )

    def _ends(self, phrase: Phrase, through: bool = False) -> Iterator[int]:
        """The known phrases that this one ends with; through a negation, too, if asked."""
        heading, folded = phrase.folded()
        words = folded.split()
        for start, word in enumerate(words):
            number = self.number.get(Phrase(heading, " ".join(words[start:])))
            if number is not None:
                yield number
            if word in NEGATIONS and not through:
                return

    def _corrected(self, text: str) -> str:
        return " ".join(map(self._correct, WORD.findall(text)))

    def _correct(self, word: str) -> str:
        """A word of which two neighbouring letters changed places, as it is usually spelled."""
        if len(word) < SHORT:
            return word
        swapped = [word[:k] + word[k + 1] + word[k] + word[k + 2 :] for k in range(len(word) - 1)]
        often = [self.counts.get(other.lower(), 0) for other in swapped]
        best = max(range(len(swapped)), key=often.__getitem__)
        own = self.counts.get(word.lower(), 0)
        return swapped[best] if often[best] > MISTYPED * own else word
