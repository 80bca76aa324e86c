"""ONNX: the graph of a model as one file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants
from torch.export import ExportedProgram

from robustmdiff.export.functions import OPSET, functions, translations


def to_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The model of an exported graph, with these names, checked."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its trees
        made = torch.onnx.export(
            program,
            custom_translation_table=translations(),
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
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
    return model
