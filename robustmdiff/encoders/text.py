"""Texts: from token ids to word vectors and what they mean beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustmdiff.data.kinds.kind import Spans
from robustmdiff.data.kinds.text import Texts
from robustmdiff.data.modality import Modality
from robustmdiff.encoders.backbone import TransformersEncoder, load_backbone, takes_vectors, to_width
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.encoder import Embedded, Encoder
from robustmdiff.nn.dropout import of_tokens
from robustmdiff.refusal import Refusal


class TextEncoder(TransformersEncoder):
    """A BERT (Devlin et al. 2019) on our attention, small and from scratch unless the modality
    names a pretrained `AutoModel`; [CLS] is the summary."""

    def __init__(self, modality: Modality, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        if modality.encoder is not None:
            self.bert = load_backbone(modality)
        else:
            if config.vocabulary < 1:
                raise Refusal(
                    f"modality {modality.name!r}: vocabulary is {config.vocabulary}, expected the "
                    "number of entries of the tokenizer"
                )
            self.bert = BertModel(
                BertConfig(
                    vocab_size=config.vocabulary,
                    hidden_size=config.d_h,
                    num_hidden_layers=config.layers,
                    num_attention_heads=config.heads,
                    intermediate_size=2 * config.d_h,
                    max_position_embeddings=config.max_tokens,
                    hidden_dropout_prob=config.dropout,
                    attention_probs_dropout_prob=0.0,
                    attn_implementation="robustmdiff",  # type: ignore[call-arg]
                ),
                add_pooling_layer=False,
            )
        self.end_to_end = modality.encoder is None  # of the model whose code we know
        self.by_vectors = self.end_to_end or takes_vectors(self.bert)
        self.project = to_width(self.bert.config.hidden_size, config.d_h)

    @staticmethod
    def blank(modality: Modality) -> Texts:
        """A text of two tokens and one of three, to try an encoder on."""
        return Texts(torch.arange(2), torch.ones(5, dtype=torch.int64), torch.tensor([2, 3]))

    @staticmethod
    def silent(encoder: Encoder, texts: Texts, spans: Spans) -> Tensor:
        """Word vectors of 0; special tokens ([CLS], [SEP]) stay."""
        x = encoder.embed(texts).x  # [1, L, ...]
        special = torch.tensor([start == end for start, end in spans], device=x.device)
        return x * special.view(1, -1, *[1] * (x.ndim - 2))

    def enter(self, inputs: Mapping[str, Tensor]) -> Embedded:
        return Embedded(self.words(inputs["input_ids"]), inputs["lengths"])

    def embed(self, texts: Texts) -> Embedded:
        """x: word vectors [n, longest, e], before positions are added; the ids [n, longest] where the model
        reads nothing else."""
        ids = padded(texts.input_ids, texts.lengths, self.bert.config.pad_token_id or 0)
        return Embedded(self.words(ids), texts.lengths)

    @property
    def reads(self) -> str:
        """As what the model is given `words`."""
        return "inputs_embeds" if self.by_vectors else "input_ids"

    def words(self, ids: Tensor) -> Tensor:
        """Token ids as `encode` takes them."""
        return self.bert.get_input_embeddings()(ids) if self.by_vectors else ids

    def encode(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        x, lengths = embedded
        assert lengths is not None
        written = _written(x, lengths)
        if not self.end_to_end or torch.compiler.is_exporting():  # a graph has fixed shapes
            return self.padded(embedded)[0][written], lengths
        # Padding would be a third of the work, of names two thirds.
        row, place = written.nonzero(as_tuple=True)
        with of_tokens(row, place):
            return self._read(x[row, place], place, lengths.cumsum(0) - lengths, lengths), lengths

    def padded(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """What stands behind the end of a text means nothing."""
        x, lengths = embedded
        assert lengths is not None
        n, longest = x.shape[:2]
        if not self.end_to_end:
            written = _written(x, lengths).long()
            states = self.bert(**{self.reads: x}, attention_mask=written).last_hidden_state
            return self.project(states), lengths
        start = torch.arange(n, device=x.device) * longest
        place = torch.arange(longest, device=x.device).repeat(n)
        return self._read(x.flatten(0, 1), place, start, lengths).view(n, longest, -1), lengths

    def _read(self, x: Tensor, place: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
        """Texts on one axis, x [T, e], each word at its place in its own text, by where they start and how
        long they are -> [T, d_h]."""
        segments = torch.stack([start, lengths], dim=-1).to(torch.int32)[:, None]
        given = {self.reads: x[None], "position_ids": place[None], "segments": segments}
        return self.project(self.bert(**given).last_hidden_state[0])

    def parts(self, attribution: Tensor) -> Tensor:
        return attribution.sum(-1)


def _written(x: Tensor, lengths: Tensor) -> Tensor:
    """bool [n, longest]"""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def padded(flat: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """flat [sum of lengths] -> [n, longest], filled up at the end of each row."""
    written = torch.arange(int(lengths.max()), device=flat.device) < lengths[:, None]
    filler = torch.full(written.shape, padding, dtype=flat.dtype, device=flat.device)
    return filler.masked_scatter(written, flat)
