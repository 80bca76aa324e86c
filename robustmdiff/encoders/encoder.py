"""What an encoder is: the observations of one modality in, tokens and a summary H_i out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from robustmdiff.data.batch import Input
from robustmdiff.data.kinds.kind import Spans
from robustmdiff.data.modality import Modality


class Embedded(NamedTuple):
    """Observations of n patients at the entry of an encoder's layers.

    x        [n, ...]   pixels, word vectors, the inputs of an MLP. What can be differentiated is floating
                        point; integers (token ids) are for an encoder that can be entered no further in.
    lengths  int64 [n]  how many x[b, :length] are there, where x is padded along its second axis (words);
                        None where all of x is.
    """

    x: Tensor
    lengths: Tensor | None = None


class Encoder(nn.Module, ABC):
    """An encoder in two parts, so that what reads an observation can be entered where it is differentiable.

        tokens, lengths = encoder(observations) = encoder.encode(encoder.embed(observations))

    observations  those of the n >= 1 patients who have the modality: `Images`, `Texts` or `Panels`
                  (`robustmdiff.data.kinds`), on the encoder's device.
    tokens        float [sum of lengths, d_h], end to end; the first token of each patient is H_i.
    lengths       int64 [n], each at least 1.

    It is built from (modality, config), `Modality` and `EncoderConfig`.
    """

    @abstractmethod
    def embed(self, observations: Any) -> Embedded:
        """The observations at the entry of the layers."""

    @abstractmethod
    def encode(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """(tokens, lengths). Patient b's tokens are a function of embedded.x[b] alone."""

    def padded(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """The same tokens [n, longest, d_h], filled up at the end, and their lengths: for a graph, whose
        layout is fixed before there are patients (`robustmdiff.export`). Without it there is no export."""
        raise NotImplementedError

    def forward(self, observations: Any) -> tuple[Tensor, Tensor]:
        return self.encode(self.embed(observations))

    def parts(self, attribution: Tensor) -> Tensor:
        """What each number of one patient's `Embedded.x[b]` did, added up by what was observed: a picture's
        pixels [C, H, W], a text's tokens [longest], a panel's fields [F]. As it is, unless an encoder has
        several numbers for one of them."""
        return attribution

    def fit(self, observations: Any) -> None:
        """Called once before training, with the training patients, for scales and the like."""


class KindEncoder(Encoder):
    """The encoder that a kind brings. Its static methods hold for any encoder of the kind, a user's too."""

    @staticmethod
    @abstractmethod
    def blank(modality: Modality) -> Input[Tensor]:
        """Two observations of which little is known, to try an encoder on."""

    @staticmethod
    @abstractmethod
    def silent(encoder: Encoder, observations: Any, spans: Spans) -> Tensor:
        """The beginning of an explanation's path: `Embedded.x` of a modality that is there and says nothing.
        spans: the characters behind each token of a text."""

    @staticmethod
    def entered(encoder: nn.Module) -> Encoder | None:
        """Where a class of the user's own that is no `Encoder` is entered for an explanation, if anywhere."""
        return None

    @abstractmethod
    def enter(self, inputs: Mapping[str, Tensor]) -> Embedded:
        """What a graph is given of n observations, as the kind's `specs` say, at the entry of the layers."""
