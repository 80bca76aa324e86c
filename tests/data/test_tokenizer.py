from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
    text = "  The  Pléural\teffusion."
    ids, offsets = tokenize(train_tokenizer(TEXTS), text, max_tokens=50)
    assert len(ids) == len(offsets)
    assert offsets[0] == offsets[-1] == (0, 0)
    assert [text[a:b] for a, b in offsets[1:-1]] == ["The", "Pléural", "effusion", "."]


def test_a_text_of_exactly_max_tokens_is_whole_and_a_longer_one_keeps_its_end():
    tokenizer = train_tokenizer(TEXTS)
    whole = tokenizer.encode("no effusion no").ids
    assert tokenize(tokenizer, "no effusion no", 5)[0] == whole
    assert tokenize(tokenizer, "no effusion no", 4)[0] == whole[:3] + whole[-1:]


def test_the_vocabulary_keeps_to_its_size():
    assert train_tokenizer(TEXTS, vocab_size=60, min_count=1).get_vocab_size() == 60
    with pytest.raises(ValueError, match="vocab_size is 10, expected at least"):
        train_tokenizer(TEXTS, vocab_size=10)


def test_the_same_texts_give_the_same_tokenizer_in_any_order_and_process():
    program = (
        "import sys; from robustmdiff.data.tokenizer import train_tokenizer\n"
        "sys.stdout.write(train_tokenizer(sys.stdin.read().split('|')).to_str())"
    )
    for seed, texts in (("1", TEXTS), ("2", TEXTS[::-1])):
        other = subprocess.run(
            [sys.executable, "-c", program],
            input="|".join(texts),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
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
    path.write_text(train_tokenizer(TEXTS).to_str()[:200])
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(path)
