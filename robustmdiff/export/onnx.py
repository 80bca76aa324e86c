"""ONNX: the graph of a model as one file."""

from __future__ import annotations

import logging
import sys
import warnings

import onnx
import torch
from onnx_ir import Node
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    NameFixPass,
    RemoveUnusedNodesPass,
)
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
    # What several evaluations of a network make of its weights, once. Weights are stored as they are cast;
    # axes have to be constants for TensorRT.
    CommonSubexpressionEliminationPass()(made.model)
    fold_constants(made.model, should_fold=_is_cast, output_size_limit=sys.maxsize)
    # What is left unnamed, unused, or tells of the machine that it was made on.
    for tidy in (NameFixPass(), RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass()):
        tidy(made.model)
    model = made.model_proto
    model.functions.extend(functions())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _is_cast(node: Node) -> bool | None:
    """True: fold it, however large. None: decide by the size of what it takes."""
    return True if node.op_type == "Cast" else None
