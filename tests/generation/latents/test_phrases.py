"""Texts as sets of phrases and back."""

from __future__ import annotations

import pytest

from robustmdiff.generation.latents.phrases import Phrase, Phrases

TEXTS = [
    "Imaging: atelectasis, no effusion. Clinical: fever.",
    "Imaging: possible atelectasis, nodule. Clinical: PCT elevated.",
    "Imaging: nodule, no effusion. Clinical: unremarkable.",
    "Imaging: effusion, atelectasis. Clinical: PCT elevated, no fever.",
    "Imaging: effusion, no nodule. Clinical: fever.",
]


@pytest.fixture
def phrases() -> Phrases:
    return Phrases.mine(TEXTS, min_count=1, most=99)


def scores(phrases: Phrases, **of: float) -> list[float]:
    by_words = {words.replace("_", " "): score for words, score in of.items()}
    assert by_words.keys() <= {phrase.words for phrase in phrases.known}
    return [by_words.get(phrase.words, -1.0) for phrase in phrases.known]


def test_a_text_is_split_at_headings_and_commas(phrases):
    assert list(phrases.split(TEXTS[0])) == [
        Phrase("Imaging", "atelectasis"),
        Phrase("Imaging", "no effusion"),
        Phrase("Clinical", "fever"),
    ]


def test_what_is_read_is_written_in_the_order_of_the_training_texts(phrases):
    read = phrases.read("Clinical: PCT elevated. Imaging: no effusion, nodule.")
    written = phrases.write([1.0 if i in read else -1.0 for i in range(len(phrases.known))])
    assert written == "Imaging: nodule, no effusion. Clinical: PCT elevated."


def test_a_phrase_says_what_it_ends_with_unless_it_denies_it(phrases):
    said = {phrases.known[i].words for i in phrases.read("Imaging: possible atelectasis, no effusion.")}
    assert said == {"possible atelectasis", "atelectasis", "no effusion"}


def test_a_phrase_that_is_unknown_is_read_by_its_known_end(phrases):
    assert [phrases.known[i].words for i in phrases.read("Imaging: suspected nodule.")] == ["nodule"]
    assert not phrases.read("Imaging: no suspected nodule.")


def test_nothing_is_written_twice_and_no_contradiction(phrases):
    assert phrases.write(scores(phrases, possible_atelectasis=0.1, atelectasis=0.9)) == (
        "Imaging: possible atelectasis."
    )
    assert phrases.write(scores(phrases, effusion=0.1, no_effusion=0.9)) == "Imaging: no effusion."
    assert phrases.write(scores(phrases, effusion=0.9, no_effusion=0.1)) == "Imaging: effusion."


def test_no_score_above_0_is_the_empty_text(phrases):
    assert phrases.write([0.0] * len(phrases.known)) == ""


def test_a_transposition_is_undone_if_the_word_is_usually_spelled_so():
    phrases = Phrases.mine(["Imaging: nodule."] * 11 + ["Imaging: nodlue."], min_count=1, most=9)
    assert phrases.known == [Phrase("Imaging", "nodule")]
    assert phrases.read("Iamging: nodlue.") == {0}
    both = Phrases.mine(["Imaging: trial."] * 9 + ["Imaging: trail."], min_count=1, most=9)
    assert len(both.known) == 2  # as frequent as this, they are two words


def test_rare_phrases_go_and_the_most_frequent_spelling_stays():
    texts = ["Note: Kerley B lines."] * 3 + ["Note: kerley B lines."] * 2 + ["Note: cyst."]
    assert Phrases.mine(texts, min_count=2, most=9).known == [Phrase("Note", "Kerley B lines")]
    assert len(Phrases.mine(texts, min_count=1, most=1).known) == 1


def test_in_prose_a_comma_parts_nothing_because_the_first_no_denies_all():
    texts = ["No effusion, nodule, or mass. The heart is normal in size."] * 3
    texts += ["Nodule. The lungs are clear. The heart is large."] * 3
    phrases = Phrases.mine(texts, min_count=1, most=9)
    read = phrases.read(texts[0])
    assert {phrases.known[i].words for i in read} == {
        "No effusion, nodule, or mass",
        "The heart is normal in size",
    }
    assert phrases.write([1.0 if i in read else -1.0 for i in range(len(phrases.known))]) == texts[0]


def test_it_goes_to_json_and_back(phrases):
    again = Phrases(**phrases.to_json())
    assert again.known == phrases.known
    assert all(again.read(text) == phrases.read(text) for text in TEXTS)
