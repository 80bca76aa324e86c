"""Transformers models that others trained, as encoders; here tiny ones, saved to a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    EsmConfig,
    EsmModel,
    GPT2Config,
    GPT2Model,
    LayoutLMv3Config,
    LayoutLMv3Model,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
    ViTConfig,
    ViTModel,
)

from robustmdiff.data.kinds.image import Images
from robustmdiff.data.kinds.text import Texts
from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import tokenize
from robustmdiff.encoders.backbone import load_backbone, load_own_tokenizer, text_backbone
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.image import ImageEncoder
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.encoders.text import TextEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "cough", "fever", "##ish", "effusion", "."]
CONFIG = ModelConfig(d_h=8, heads=2, layers=1, vocabulary=len(WORDS))
SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 14}


def bert(**settings) -> BertModel:
    torch.manual_seed(1)
    return BertModel(
        BertConfig(**SMALL | {"vocab_size": len(WORDS), "max_position_embeddings": 20} | settings)
    )


def vit(**settings) -> ViTModel:
    torch.manual_seed(2)
    sizes = {"image_size": 18, "patch_size": 6, "num_channels": 3} | settings
    return ViTModel(ViTConfig(**SMALL | sizes)).eval()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with a text model and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    bert().save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "vit"
    vit().save_pretrained(folder)
    return folder


def notes(encoder: object, name: str = "notes") -> Modality:
    return Modality(name, "text", encoder=str(encoder))


def xray(encoder: object, shape: tuple[int, int, int] = (1, 18, 18)) -> Modality:
    return Modality("xray", "image", shape=shape, encoder=str(encoder))


def test_a_text_is_read_as_by_the_model_itself(texts):
    encoder = TextEncoder(notes(texts), replace(CONFIG, d_h=12)).eval()
    ids = torch.tensor([2, 6, 7, 3])
    tokens, lengths = encoder(Texts(torch.arange(2), torch.cat([ids, ids[1:3]]), torch.tensor([4, 2])))
    with torch.no_grad():
        expected = bert().eval()(input_ids=ids[None]).last_hidden_state[0]
    torch.testing.assert_close(tokens[:4], expected)
    assert lengths.tolist() == [4, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_read_as_by_the_model_itself(images, channels):
    encoder = ImageEncoder(xray(images, (channels, 18, 18)), replace(CONFIG, d_h=12)).eval()
    pixels = torch.rand(2, channels, 18, 18)
    tokens, lengths = encoder(Images(torch.arange(2), pixels))
    with torch.no_grad():
        expected = vit()(2 * pixels.expand(-1, 3, -1, -1) - 1).last_hidden_state
    torch.testing.assert_close(tokens.view_as(expected), expected)
    assert lengths.tolist() == [10, 10]


def esm() -> EsmModel:
    torch.manual_seed(4)
    sizes = SMALL | {"vocab_size": len(WORDS), "pad_token_id": 0, "mask_token_id": 4}
    return EsmModel(EsmConfig(**sizes, max_position_embeddings=20, token_dropout=True)).eval()


@pytest.mark.parametrize(
    ("make", "by_vectors"),
    [(bert, True), (lambda: RobertaModel(RobertaConfig(**SMALL, vocab_size=30)), True), (esm, False)],
    ids=["bert", "positions-after-padding", "counts-its-ids"],
)
def test_a_text_is_read_by_word_vectors_where_these_say_the_same(make, by_vectors, tmp_path):
    theirs = make().eval()
    theirs.save_pretrained(tmp_path)
    encoder = TextEncoder(notes(tmp_path), replace(CONFIG, d_h=12)).eval()
    assert encoder.by_vectors is by_vectors
    ids = torch.tensor([2, 6, 7, 3])
    tokens, _ = encoder(Texts(torch.arange(2), torch.cat([ids, ids[1:3]]), torch.tensor([4, 2])))
    with torch.no_grad():
        expected = theirs(input_ids=ids[None]).last_hidden_state[0]
    torch.testing.assert_close(tokens[:4], expected)


def test_a_model_of_another_width_is_projected(texts, images):
    task = Task((xray(images), notes(texts)), ("ill", "well"), (0.2, 0.8))
    encoders = ModalityEncoders(task, CONFIG).encoders
    assert [encoders[name].project.weight.shape for name in ("xray", "notes")] == [(8, 12), (8, 12)]


def test_half_precision_on_disk_is_single_in_memory(tmp_path):
    bert().bfloat16().save_pretrained(tmp_path)
    assert load_backbone(notes(tmp_path)).dtype == torch.float32


def test_the_tokenizer_is_the_model_s_own(texts):
    tokenizer, entries, longest = load_own_tokenizer(notes(texts))
    assert tokenizer.encode("No feverish cough.").tokens == [
        "[CLS]", "no", "fever", "##ish", "cough", ".", "[SEP]",
    ]  # fmt: skip
    assert (entries, longest) == (len(WORDS), 20)


def test_special_tokens_typed_in_a_note_are_text_to_it(texts):
    tokenizer, _, _ = load_own_tokenizer(notes(texts))
    ids, offsets = tokenize(tokenizer, "no [SEP] [PAD]cough [MASK]", 20)
    assert (ids[0], ids[-1]) == (2, 3)
    assert not {0, 2, 3, 4} & set(ids[1:-1])
    assert [(id, span) for id, span in zip(ids, offsets, strict=True) if id in (5, 6)] == [
        (5, (0, 2)),
        (6, (14, 19)),
    ]
    assert tokenize(tokenizer, "", 20)[0] == [2, 3]


def test_padding_and_cutting_stay_with_the_collator(texts, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(texts, folder)
    file = folder / "tokenizer.json"
    tokenizer, _, _ = load_own_tokenizer(notes(texts))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(file))
    tokenizer, _, _ = load_own_tokenizer(notes(folder))
    assert len(tokenizer.encode("no cough no fever").ids) == 6


def test_positions_of_roberta_begin_after_the_padding(texts, tmp_path):
    folder = tmp_path / "roberta"
    shutil.copytree(texts, folder)
    config = RobertaConfig(
        **SMALL | {"vocab_size": 30, "max_position_embeddings": 20, "pad_token_id": 1, "type_vocab_size": 1}
    )
    RobertaModel(config).save_pretrained(folder)
    longest = load_own_tokenizer(notes(folder))[2]
    assert longest == 18
    encoder = TextEncoder(notes(folder), CONFIG).eval()
    encoder(Texts(torch.arange(1), torch.full((longest,), 6), torch.tensor([longest])))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(Texts(torch.arange(1), torch.full((longest + 1,), 6), torch.tensor([longest + 1])))


def test_config_json_alone_gives_an_untrained_model_of_the_same_shape(texts):
    shape = {name: value.shape for name, value in load_backbone(notes(texts)).state_dict().items()}
    bare = load_backbone(notes(texts / "config.json"))
    assert {name: value.shape for name, value in bare.state_dict().items()} == shape


def test_what_cannot_be_loaded_is_told_in_one_sentence(tmp_path, texts, images):
    for load in (load_backbone, load_own_tokenizer):
        with pytest.raises(ValueError, match=r"^modality 'notes': encoder '/nowhere' cannot be loaded") as e:
            load(notes("/nowhere"))
        assert "\n" not in str(e.value)
    damaged = tmp_path / "damaged"
    shutil.copytree(texts, damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_backbone(notes(damaged))
    with pytest.raises(ValueError, match="reads pixel_values, expected one that reads input_ids"):
        load_backbone(notes(images))
    with pytest.raises(ValueError, match="reads input_ids, expected one that reads pixel_values"):
        load_backbone(xray(texts))


@pytest.mark.parametrize("shape", [(1, 18, 20), (2, 18, 18), (3, 9, 9)])
def test_images_of_another_size_name_both(images, shape):
    ours = " x ".join(map(str, shape))
    with pytest.raises(ValueError, match=f"'xray': image is {ours}, expected 3 x 18 x 18"):
        load_backbone(xray(images, shape))


def test_a_convolutional_network_is_refused(tmp_path):
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1]}
    ResNetModel(ResNetConfig(num_channels=1, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"encoder .*(no hidden_size|cannot be loaded)"):
        load_backbone(xray(tmp_path))


def test_a_model_without_its_tokenizer(tmp_path):
    bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer, expected tokenizer\.json"):
        load_own_tokenizer(notes(tmp_path))


def test_a_tokenizer_with_more_entries_than_its_model(texts, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(texts, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 9}), encoding="utf-8")
    with pytest.raises(ValueError, match="has 11 entries, expected at most 9"):
        load_own_tokenizer(notes(folder))


def test_all_texts_share_one_tokenizer(texts):
    small, mine = Modality("report", "text"), Modality("plan", "text", encoder="package:Class")

    def of(*modalities: Modality) -> Modality | None:
        return text_backbone(Task(modalities, ("ill", "well"), (0.2, 0.8)))

    assert of(small, mine) is None
    assert of(small, mine, notes(texts)) == notes(texts)
    assert of(notes(texts), notes(texts, "more")) == notes(texts)
    with pytest.raises(ValueError, match=r"'notes' and 'more' name the encoders .* expected the same"):
        of(notes(texts), notes("another", "more"))


PAPER = SMALL | {
    "hidden_size": 12,
    "vocab_size": 20,
    "visual_embed": False,
    "coordinate_size": 2,
    "shape_size": 2,
}
PAPER |= {"has_relative_attention_bias": True, "has_spatial_attention_bias": True}
T5 = T5Config(vocab_size=20, d_model=12, d_kv=4, d_ff=14, num_layers=1, num_heads=3)


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (lambda: LayoutLMv3Model(LayoutLMv3Config(**PAPER)), False),
        (lambda: T5Model(T5), False),
        (lambda: MPNetModel(MPNetConfig(**SMALL, vocab_size=20)), True),
    ],
    ids=["position-bias", "encoder-of-two", "attends-by-itself"],
)
def test_a_text_model_says_here_what_it_says_there(make, own, tmp_path):
    torch.manual_seed(0)
    theirs = make().eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "rel" in name:
                p.mul_(50)  # a trained bias is not as small as a fresh one
    theirs.save_pretrained(tmp_path)
    if isinstance(theirs, T5Model):
        theirs = T5EncoderModel.from_pretrained(tmp_path)
    ours = load_backbone(notes(tmp_path)).eval()
    assert (ours.config._attn_implementation == "robustmdiff") is not own
    ids, mask = torch.randint(3, 20, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    theirs.set_attn_implementation("eager")
    expected, found = (m(input_ids=ids, attention_mask=mask).last_hidden_state for m in (theirs, ours))
    torch.testing.assert_close(found[mask > 0], expected[mask > 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GPT2Model(GPT2Config(vocab_size=20, n_embd=12, n_layer=1, n_head=3)), "bidirectional"),
        (
            lambda: ModernBertModel(ModernBertConfig(**SMALL, vocab_size=20, pad_token_id=0)),
            "bidirectional",
        ),
    ],
    ids=["causal", "window"],
)
def test_what_our_attention_cannot_do_is_refused_before_the_first_patient(make, message, tmp_path):
    make().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=rf"'notes': encoder .* cannot be run \(robustmdiff attention: .*{message}.*\)"
    ):
        load_backbone(notes(tmp_path))
