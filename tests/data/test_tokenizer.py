from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from robustmdiff.data.patient import DataError
from robustmdiff.data.tokenizer import SPECIAL, load_tokenizer, save_tokenizer, tokenize, train_tokenizer

TEXTS = [
    "No pleural effusion. The heart is enlarged.",
    "Small pleural effusion on the left, no pneumothorax.",
    "Ground-glass opacities; no effusion.",
]


def test_special_tokens_come_first_and_texts_are_enclosed():
    tokenizer = train_tokenizer(TEXTS)
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL)
    assert tokenizer.encode("No EFFUSION").tokens == ["[CLS]", "no", "effusion", "[SEP]"]


def test_a_word_is_its_pieces_and_an_unseen_character_is_unknown():
    tokenizer = train_tokenizer(TEXTS, min_count=2)
    pieces = tokenizer.encode("pneumoeffusion").tokens[1:-1]
    assert "".join(piece.removeprefix("##") for piece in pieces) == "pneumoeffusion"
    assert tokenizer.encode("ж").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_offsets_point_into_the_text_as_it_was_given():
    text = "  The  PLEURAL\teffu\u00adsion."
    ids, offsets = tokenize(train_tokenizer(TEXTS), text, max_tokens=50)
    assert len(ids) == len(offsets)
    assert offsets[0] == offsets[-1] == (0, 0)
    assert [text[a:b] for a, b in offsets[1:-1]] == ["The", "PLEURAL", "effu\u00adsion", "."]


def test_a_text_of_exactly_max_tokens_is_whole_and_a_longer_one_keeps_its_end():
    tokenizer = train_tokenizer(TEXTS)
    whole = tokenizer.encode("no effusion no").ids
    assert tokenize(tokenizer, "no effusion no", 5)[0] == whole
    assert tokenize(tokenizer, "no effusion no", 4)[0] == whole[:3] + whole[-1:]


def test_the_vocabulary_keeps_to_its_size():
    assert train_tokenizer(TEXTS, vocab_size=60, min_count=1).get_vocab_size() == 60
    with pytest.raises(ValueError, match="vocab_size is 5, expected more than 5"):
        train_tokenizer(TEXTS, vocab_size=5)


def test_the_rarest_characters_go_where_there_is_no_room_and_a_warning_says_so():
    with pytest.warns(UserWarning, match="of 7 is too small for 3 characters: the 1 rarest, 17 %"):
        tokenizer = train_tokenizer(["肺 肺 肺 炎 炎 癌"], vocab_size=7)
    assert tokenizer.encode("肺癌炎").tokens == ["[CLS]", "肺", "[UNK]", "炎", "[SEP]"]


def test_an_alphabet_of_any_size_is_learned_whole():
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 2600)]
    tokenizer = train_tokenizer(["".join(characters)])
    assert tokenizer.get_vocab_size() == 2600 + len(SPECIAL)
    assert tokenizer.encode("".join(characters)).tokens[1:-1] == characters


def test_the_same_texts_give_the_same_tokenizer_in_any_order_and_process():
    program = (
        "import sys; from robustmdiff.data.tokenizer import train_tokenizer\n"
        "sys.stdout.write(train_tokenizer(sys.stdin.read().split('|')).to_str())"
    )
    for seed, texts in (("1", TEXTS), ("2", TEXTS[::-1])):
        other = subprocess.run(
            [sys.executable, "-c", program],
            input="|".join(texts),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert other.stdout == train_tokenizer(TEXTS).to_str()


def test_a_saved_tokenizer_comes_back_the_same(tmp_path):
    tokenizer = train_tokenizer(TEXTS)
    save_tokenizer(tokenizer, tmp_path / "new" / "tokenizer.json")
    assert load_tokenizer(tmp_path / "new" / "tokenizer.json").to_str() == tokenizer.to_str()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_a_broken_or_absent_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: no tokenizer there"):
        load_tokenizer(tmp_path / "none.json")
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer(TEXTS).to_str()[:200], encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(path)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.id_to_token(id) for id in tokenize(tokenizer, text, 10_000)[0]][1:-1]


def spelled(text: str) -> str:
    """What is left of `text` for a tokenizer that knows its every character."""
    tokenizer = train_tokenizer([text])
    return "".join(piece.removeprefix("##") for piece in pieces(tokenizer, text))


SPELLED = {
    "accents, which tell words apart": ("año ano", "añoano"),
    "composed and decomposed": ("Pneumonía Pneumoni\u0301a", "pneumoníapneumonía"),
    "vowel signs of Hindi and Thai": ("निमोनिया ปอดบวม", "निमोनियाปอดบวม"),
    "joiners where they spell": ("क्\u200dष می\u200cخ", "क्\u200dषمی\u200cخ"),
    "joiners where they do not": ("pneu\u200dmonia", "pneumonia"),
    "a break of Thai": ("ปอด\u200bบวม", "ปอดบวม"),
    "what cannot be seen": ("\ufeffin\u00adflu\u200ben\u2060za\u200f", "influenza"),
    "dashes": ("SARS‑CoV–2 — ‐ −5", "sars-cov-2---5"),
    "quotes": ("patient’s “fever”", 'patient\'s"fever"'),
    "full-width": ("ＣＲＰ　２５", "crp25"),
    "ligatures": ("ﬂuid, eﬀusion", "fluid,effusion"),
    "units": ("5 µg 5 μg 3 ㎎ 37 ℃ 37ºC", "5μg5μg3mg37°c37°c"),
    "comparisons": ("≥5 ±2 ×10", "≥5±2×10"),
    "powers": ("10⁹/L m² 10⁻⁶", "10^9/lm^210^-6"),
    "indices": ("SpO₂", "spo2"),
    "fractions": ("1½ ¾", "11/23/4"),
    "Turkish and Greek": ("İNFLUENZA ΠΥΡΕΤΟΣ πυρετός", "influenzaπυρετοσπυρετόσ"),
    "half a surrogate pair": ("a\ud800b", "a\ufffdb"),
    "control characters": ("a\0b\x0cc", "abc"),
}


@pytest.mark.parametrize(("text", "expected"), SPELLED.values(), ids=SPELLED.keys())
def test_characters_survive_or_are_spelled_on_purpose(text, expected):
    assert spelled(text) == expected


def test_words_end_where_they_should():
    def words(text: str) -> list[str]:
        tokenizer = train_tokenizer([text] * 2)
        return [text[a:b] for a, b in tokenize(tokenizer, text, 100)[1][1:-1]]

    assert words("肺炎 pneumonia患者") == ["肺", "炎", "pneumonia", "患", "者"]
    assert words("≥38°C 1½ a\x0cb ปอด\u200bบวม 폐렴") == [
        *("≥", "38", "°", "C", "1", "½", "½", "½", "a", "b", "ปอด", "บวม", "폐렴"),
    ]


@pytest.mark.parametrize("text", ["acgt" * 60 + "n", "ปอดอักเสบ" * 20, "0" * 10_000 + "肺"])
def test_a_word_of_any_length_is_its_pieces(text):
    assert spelled(text) == text


def test_one_unknown_character_does_not_take_its_word_along():
    tokenizer = train_tokenizer(["effusion effusion steep"])
    assert pieces(tokenizer, "effusionжeffusion")[:2] == ["effusion", "[UNK]"]
    assert pieces(tokenizer, "effusionжeffusion").count("[UNK]") == 1


def test_special_tokens_typed_in_a_note_are_text():
    tokenizer = train_tokenizer(["[SEP] [MASK] [PAD] [UNK] [CLS]"])
    ids = tokenize(tokenizer, "[SEP] [PAD][MASK] [CLS]", 100)[0]
    assert (ids[0], ids[-1]) == (2, 3)
    assert min(ids[1:-1]) >= len(SPECIAL)
    assert spelled("[PAD]") == "[pad]"
    assert tokenize(tokenizer, "", 100)[0] == [2, 3]


def unigram() -> Tokenizer:
    """In the manner of XLM-R, whose model finds "</s>" in a text by itself."""
    words = ["<s>", "<pad>", "</s>", "<unk>"]
    scored = [
        *((word, 0.0) for word in words),
        *((piece, -3.0) for piece in ("▁", "<", "/", "s", ">", "▁no")),
    ]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(words)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def byte_level() -> Tokenizer:
    """In the manner of RoBERTa."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: id for id, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


@pytest.mark.parametrize("make", [unigram, byte_level])
def test_special_tokens_of_other_tokenizers_typed_in_a_note_are_text(make):
    text = "no </s> no<pad><s>"
    ids, offsets = tokenize(make(), text, 100)
    assert (ids[0], ids[-1]) == (0, 2)
    assert min(ids[1:-1]) >= 3  # a unigram model may meet an unknown character there
    assert offsets[-2][1] == len(text)


def test_what_a_unigram_model_does_not_know_stays_unknown():
    ids, offsets = tokenize(unigram(), "no ж no", 100)
    assert ids == unigram().encode("no ж no").ids
    assert ids.count(3) == 1
    assert offsets == unigram().encode("no ж no").offsets


def earlier() -> Tokenizer:
    """What `train_tokenizer` made before: WordPiece, without accents."""
    words = [*SPECIAL, "no", "effusion", "pleural", "##s", "[", "]", "sep", ".", "e", "##f", "##fusion"]
    tokenizer = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def test_a_tokenizer_of_an_earlier_run_still_gives_its_ids(tmp_path):
    (tmp_path / "tokenizer.json").write_text(earlier().to_str(), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    text = "No pléural EFFUSIONS."
    assert tokenize(tokenizer, text, 100) == (
        [2, 5, 7, 6, 8, 12, 3],
        [(0, 0), (0, 2), (3, 10), (11, 19), (19, 20), (20, 21), (0, 0)],
    )
    assert tokenize(tokenizer, "[SEP]", 100)[0] == [2, 9, 11, 10, 3]
    save_tokenizer(tokenizer, tmp_path / "again.json")
    assert load_tokenizer(tmp_path / "again.json").to_str() == earlier().to_str()


ALPHABET = st.one_of(
    st.characters(),  # surrogates, unassigned and private ones among them
    st.sampled_from("aé肺นि\u0301\u0323\u200b\u200d\u00ad½⁹⁻ﬁ㎎İßς［[SEP]</s> \n\0\ud800"),
)
FREE = train_tokenizer(["a sep pleural effusion 肺 1/2 ^9"])


@settings(max_examples=300, deadline=None)
@given(text=st.text(ALPHABET, max_size=40))
@pytest.mark.parametrize("tokenizer", [FREE, earlier(), unigram()], ids=["ours", "earlier", "unigram"])
def test_offsets_of_any_text_lie_in_it_in_order(tokenizer, text):
    ids, offsets = tokenize(tokenizer, text, 1000)
    assert offsets[0] == offsets[-1] == (0, 0)
    inside = offsets[1:-1]
    assert all(0 <= start < end <= len(text) for start, end in inside)
    assert inside == sorted(inside)
    assert not set(ids[1:-1]) & {0, 2 if tokenizer is not FREE else 3}


@settings(max_examples=200, deadline=None)
@given(text=st.text(ALPHABET, max_size=40))
def test_nothing_that_can_be_seen_is_lost(text):
    """Every letter, digit and mark of punctuation stands behind some token."""
    covered = {i for start, end in tokenize(FREE, text, 1000)[1] for i in range(start, end)}
    seen = {i for i, character in enumerate(text) if unicodedata.category(character)[0] in "LNPS"}
    blank = {i for i in seen if not unicodedata.normalize("NFKC", text[i]).strip() or text[i] in FILLERS}
    assert seen - blank <= covered


FILLERS = "\u115f\u1160\u3164\uffa0"  # of Hangul: letters that have no form


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(ALPHABET, max_size=60), max_size=6), size=st.integers(6, 80))
def test_any_texts_make_a_tokenizer_of_the_size(texts, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert train_tokenizer(texts, vocab_size=size).get_vocab_size() <= size
    whole = train_tokenizer(texts)
    assert all(1 not in tokenize(whole, text, 10_000)[0] for text in texts)
