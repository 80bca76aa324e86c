"""ONNX: the graph of a model as one file."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from robustmdiff.export.functions import OPSET, functions, translations
from robustmdiff.export.program import Traced


def to_onnx(traced: Traced) -> bytes:
    """The model, checked."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its trees
        made = torch.onnx.export(
            traced.program,
            custom_translation_table=translations(),
            opset_version=OPSET,
            input_names=traced.inputs,
            output_names=traced.outputs,
            dynamo=True,
            optimize=False,  # runtimes do that better, and it takes as long as all the rest
            verbose=False,
        )
    assert made is not None
    fold_constants(made.model)  # axes have to be constants for TensorRT
    # What is left unnamed, unused, or tells of the machine that it was made on.
    for tidy in (NameFixPass(), RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass()):
        tidy(made.model)
    model = made.model_proto
    model.functions.extend(functions())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
