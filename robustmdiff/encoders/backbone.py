"""Encoders that others trained: a transformers `AutoModel` for a modality, and its own tokenizer.

`Modality.encoder` names one: a name on the Hugging Face hub, a folder that `save_pretrained` wrote,
or the config.json of such a folder (ends in ".json"): the same architecture without its weights,
which is how a saved model of ours finds its shape again without the original folder.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.encoders.encoder import KindEncoder
from robustmdiff.nn.transformers import NAME, OwnAttentionError, register_with_transformers
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TransformersEncoder(KindEncoder):
    """An encoder around a model of transformers, which asks for our attention by name: a name that every
    process has to be told, those that unpickle it as well."""

    def __init__(self) -> None:
        super().__init__()
        register_with_transformers()

    def __setstate__(self, state: dict[str, Any]) -> None:
        register_with_transformers()
        super().__setstate__(state)


def is_backbone(modality: Modality) -> bool:
    """Whether the modality names a transformers model (and not a class of the user's own)."""
    return modality.encoder is not None and ":" not in modality.encoder


def load_backbone(modality: Modality) -> Any:
    """The model that the modality names, float32, on our attention; one that computes attention by itself
    (MPNet, DeBERTa, Longformer) keeps its own. Of a text model with a decoder (T5) the encoder.

    Raises Refusal for one that cannot be loaded, does not read this kind of modality, reads images of
    another size, or fails on a first try: it needs other inputs, too, or our attention refuses what it
    asks for. An image of one channel goes into every channel of the model.
    """
    from transformers import AutoConfig

    register_with_transformers()
    name, reads = modality.encoder, READS[modality.kind]
    assert name is not None
    try:
        config = AutoConfig.from_pretrained(name)
        auto = reads.auto(config)
        if name.endswith(".json"):
            model = auto.from_config(config, dtype=torch.float32)
        else:
            model = auto.from_pretrained(name, dtype=torch.float32)
    except Exception as error:  # of many kinds, some bare, depending on what is wrong with the folder
        raise _cannot_load(modality, "a transformers model (its name, or a folder)", error) from error
    if model.main_input_name != reads.input:
        raise Refusal(
            f"modality {modality.name!r}: encoder {name!r} reads {model.main_input_name}, "
            f"expected one that reads {reads.input}"
        )
    blank = reads.blank(modality, model.config)
    if not hasattr(model.config, "hidden_size"):
        raise Refusal(
            f"modality {modality.name!r}: encoder {name!r} has no hidden_size, expected a transformer whose "
            "last_hidden_state is [n, tokens, hidden_size]"
        )
    with suppress(OwnAttentionError):
        model.set_attn_implementation(NAME)
    _try_out(modality, model, blank)
    return model


def _try_out(modality: Modality, model: Any, blank: dict[str, Tensor]) -> None:
    """Run the model on a blank input, which costs a moment now, rather than fail on the first patient."""
    try:
        states = _states(model, blank)
    except Exception as error:  # of any kind: it is the model's own code
        raise Refusal(
            f"modality {modality.name!r}: encoder {modality.encoder!r} cannot be run ({_first_line(error)}), "
            f"expected a model that reads {' and '.join(blank)} alone"
        ) from error
    if states.ndim != 3:
        raise Refusal(
            f"modality {modality.name!r}: encoder {modality.encoder!r} gives states {list(states.shape)}, "
            "expected [n, tokens, hidden_size]"
        )


def _states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """[n, tokens, hidden_size], without dropout; the model's mode and the random numbers stay as they are."""
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model.eval()(**inputs).last_hidden_state
    finally:
        model.train(training)


def takes_vectors(model: Any) -> bool:
    """Whether a text model says of word vectors what it says of the words. Some take ids alone (CLIP), and
    some look at the ids for more than their vectors (ESM)."""
    inputs = _blank_text(None, model.config)
    try:
        vectors = model.get_input_embeddings()(inputs["input_ids"]).detach()
        by_vectors = _states(model, {"inputs_embeds": vectors, "attention_mask": inputs["attention_mask"]})
    except Exception:  # of any kind, again
        return False
    written = inputs["attention_mask"] > 0
    return torch.equal(by_vectors[written], _states(model, inputs)[written])


def _image_model(config: Any) -> Any:
    from transformers import AutoModel

    return AutoModel


def _text_model(config: Any) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    return AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def _blank_image(modality: Modality, config: Any) -> dict[str, Tensor]:
    assert modality.shape is not None
    channels, *sides = modality.shape
    reads, size = getattr(config, "num_channels", channels), getattr(config, "image_size", sides)
    size = [size, size] if isinstance(size, int) else list(size)
    if channels not in (1, reads) or sides != size:
        raise Refusal(
            f"modality {modality.name!r}: image is {' x '.join(map(str, modality.shape))}, expected "
            f"{' x '.join(map(str, [reads, *size]))} (channels, height, width; one channel will do, too), "
            f"which encoder {modality.encoder!r} reads"
        )
    return {"pixel_values": torch.zeros(1, reads, *sides)}


def _blank_text(modality: Modality | None, config: Any) -> dict[str, Tensor]:
    """Two words and a padding."""
    padding = getattr(config, "pad_token_id", None) or 0
    words = [i for i in range(3) if i != padding][:2]
    ids, written = torch.tensor([[*words, padding]]), torch.tensor([[1, 1, 0]])
    return {"input_ids": ids, "attention_mask": written}


class _Reads(NamedTuple):
    """How transformers' models read a kind of modality: which class of them, by which input, and a blank
    one that is of the size that the model reads."""

    auto: Callable[[Any], Any]
    input: str
    blank: Callable[[Modality, Any], dict[str, Tensor]]


READS = {
    "image": _Reads(_image_model, "pixel_values", _blank_image),
    "text": _Reads(_text_model, "input_ids", _blank_text),
}


def to_width(width: int, d_h: int) -> nn.Module:
    return nn.Identity() if width == d_h else nn.Linear(width, d_h)


def text_backbone(task: Task) -> Modality | None:
    """The text modality whose model brings the tokenizer, if any names a model. There is one
    tokenizer for all texts, so two different models are an error."""
    named = [text for text in task.of_kind("text") if is_backbone(text)]
    for other in named[1:]:
        if other.encoder != named[0].encoder:
            raise Refusal(
                f"modalities {named[0].name!r} and {other.name!r} name the encoders {named[0].encoder!r} "
                f"and {other.encoder!r}, expected the same: all texts share one tokenizer"
            )
    return named[0] if named else None


def load_own_tokenizer(modality: Modality) -> tuple[Tokenizer, int, int]:
    """The tokenizer of the model that a text modality names, the number of its entries, and the longest text
    in tokens that the model can read."""
    from transformers import AutoConfig, AutoTokenizer

    name = modality.encoder
    assert name is not None
    try:
        config, fast = AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        tokenizer: Tokenizer = fast.backend_tokenizer
    except Exception as error:  # likewise
        raise _cannot_load(modality, "a transformers model with a fast tokenizer", error) from error
    tokenizer.no_padding()  # both are the collator's work
    tokenizer.no_truncation()
    ids = set(tokenizer.get_vocab().values())
    if len(ids) <= len(fast.all_special_ids):  # what transformers makes up where there is no file
        raise Refusal(
            f"modality {modality.name!r}: encoder {name!r} has no tokenizer, expected tokenizer.json "
            "beside its weights"
        )
    entries = max(ids) + 1
    if entries > config.vocab_size:
        raise Refusal(
            f"modality {modality.name!r}: the tokenizer of {name!r} has {entries} entries, expected at most "
            f"{config.vocab_size}, those of its model"
        )
    longest = getattr(config, "max_position_embeddings", fast.model_max_length)
    if "roberta" in config.model_type:  # positions there start after that of the padding
        longest -= config.pad_token_id + 1
    return tokenizer, entries, min(longest, fast.model_max_length)


def save_architectures(encoders: nn.ModuleDict, task: Task, folder: Path) -> None:
    """Writes folder/NAME.json for each modality whose encoder, by its name, is a transformers model."""
    from transformers import PreTrainedModel

    for name, encoder in encoders.items():
        if not is_backbone(task.modality(name)):
            continue
        for part in encoder.children():
            if isinstance(part, PreTrainedModel):
                write_whole(folder / f"{name}.json", part.config.to_json_string(use_diff=False).encode())


def with_architectures(plain: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A task in plain values, whose modalities name what `save_architectures` wrote, where it did."""
    modalities = [dict(m) for m in plain["modalities"]]
    for modality in modalities:
        path = folder / f"{modality['name']}.json"
        if path.exists():
            modality["encoder"] = str(path)
    return {**plain, "modalities": modalities}


def _cannot_load(modality: Modality, expected: str, error: Exception) -> Refusal:
    return Refusal(
        f"modality {modality.name!r}: encoder {modality.encoder!r} cannot be loaded ({_first_line(error)}), "
        f"expected {expected}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
