"""Every refusal names the argument, its value and what was expected."""

from __future__ import annotations

import math

import pytest
import torch

from robustmdiff.ops import DynamicThreshold, ddpm_noise, ddpm_noise_loss, ddpm_step, philox_key
from robustmdiff.ops.ddpm import native
from tests.ops.refusal import refuses

X = torch.zeros(3, 4)
STEP = torch.tensor([0, 1, 2])
KEY = philox_key(0)

BAD = {
    "sample dtype": (
        {"sample": X.long()},
        TypeError,
        r"sample is torch.int64 \[3, 4\].*expected a tensor of float32",
    ),
    "sample scalar": (
        {"sample": torch.tensor(0.0)},
        ValueError,
        r"sample has no dimension, expected \[B, ...\]",
    ),
    "output shape": (
        {"model_output": X[:, :3]},
        ValueError,
        r"model_output has shape \[3, 3\], expected \[3, 4\]",
    ),
    "output dtype": ({"model_output": X.bool()}, TypeError, "model_output is torch.bool"),
    "uncond shape": ({"uncond": X[:2]}, ValueError, r"uncond has shape \[2, 4\], expected \[3, 4\]"),
    "uncond device": ({"uncond": X.to("meta")}, ValueError, "uncond is on meta, expected cpu"),
    "step dtype": (
        {"step": STEP.int()},
        ValueError,
        r"step is torch.int32 \[3\] on cpu, expected torch.int64 \[3\]",
    ),
    "step shape": ({"step": STEP[:2]}, ValueError, r"step is torch.int64 \[2\].*expected torch.int64 \[3\]"),
    "step number": ({"step": 5}, ValueError, r"step is 5, expected torch.int64 \[3\]"),
    "step range": ({"step": STEP + 8}, ValueError, r"step\[2\] is 10, expected 0 to 9"),
    "step negative": ({"step": STEP - 1}, ValueError, r"step\[0\] is -1, expected 0 to 9"),
    "table shape": (
        {"table": torch.zeros(5, 7)},
        ValueError,
        r"table is .*\[5, 7\] on cpu, expected torch.float32 \[5, 8\]",
    ),
    "table dtype": ({"table": torch.zeros(5, 8).double()}, ValueError, r"table is torch.float64"),
    "no source": ({"key": None}, ValueError, "exactly one of key and noise, neither is given"),
    "two sources": ({"noise": X}, ValueError, "exactly one of key and noise, both are given"),
    "key": (
        {"key": torch.tensor([1])},
        ValueError,
        r"key is torch.int64 \[1\] on cpu, expected torch.int64 \[2\]",
    ),
    "rows shape": ({"row_ids": STEP[:1]}, ValueError, r"row_ids is torch.int64 \[1\]"),
    "rows range": ({"row_ids": STEP - 1}, ValueError, r"row_ids\[0\] is -1, expected 0 to 4294967295"),
    "rows of noise": ({"key": None, "noise": X, "row_ids": STEP}, ValueError, "row_ids is given with noise"),
    "prediction": (
        {"prediction": "eps"},
        ValueError,
        "prediction is 'eps', expected one of 'epsilon', 'sample'",
    ),
    "variance": ({"variance": "learned"}, ValueError, "variance is 'learned', expected one of 'fixed'"),
    "no variance": (
        {"variance": "learned_range"},
        ValueError,
        "variance_output is not given with variance='learned",
    ),
    "two variances": (
        {"variance_output": X, "variance": "learned_range", "log_variance": X},
        ValueError,
        "variance_output and log_variance are both given, expected one of them",
    ),
    "another shape of log_variance": (
        {"log_variance": X[:, :1]},
        ValueError,
        r"log_variance has shape \[3, 1\], expected \[3, 4\] like sample",
    ),
    "a variance": ({"variance_output": X}, ValueError, "variance_output is given with variance='fixed'"),
    "clip": ({"clip": 0.0}, ValueError, "clip is 0.0, expected a positive number"),
    "clip nan": ({"clip": math.nan}, ValueError, "clip is nan, expected a positive number"),
    "threshold": (
        {"clip": DynamicThreshold(1.5)},
        ValueError,
        "clip is DynamicThreshold.*expected 0 <= ratio <= 1 and limit > 0",
    ),
    "guidance alone": ({"guidance": 2.0}, ValueError, "guidance is 2.0 without uncond"),
    "guidance inf": (
        {"guidance": math.inf, "uncond": X},
        ValueError,
        "guidance is inf, expected a finite number",
    ),
    "guidance shape": (
        {"guidance": torch.ones(2), "uncond": X},
        ValueError,
        r"guidance is .*\[2\] on cpu, expected a",
    ),
    "out shape": (
        {"out": X[:, :2]},
        ValueError,
        r"out is torch.float32 \[3, 2\] on cpu, expected torch.float32 \[3, 4\]",
    ),
    "out strides": (
        {"out": torch.zeros(4, 3).T},
        ValueError,
        r"out has strides \(1, 3\), expected a contiguous",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_step_refuses(table, name):
    changed, error, message = BAD[name]
    good = {"model_output": X, "sample": X, "step": STEP, "table": table, "key": KEY}
    refuses("ddpm_step", lambda: ddpm_step(**(good | changed)), error, "^ddpm_step: .*" + message)


def test_out_is_refused_while_a_gradient_is_recorded(table):
    x = X.clone().requires_grad_()
    message = "out is given while a gradient is recorded"
    out = torch.empty(3, 4)
    refuses("ddpm_step", lambda: ddpm_step(x, X, STEP, table, key=KEY, out=out), ValueError, message)
    refuses("ddpm_noise", lambda: ddpm_noise(x, STEP, table, key=KEY, out=out), ValueError, message)
    with torch.no_grad():
        ddpm_step(x, X, STEP, table, key=KEY, out=torch.empty(3, 4))


def test_noise_and_loss_refuse_under_their_own_names(table):
    message = r"^ddpm_noise: step\[2\] is 10"
    refuses("ddpm_noise", lambda: ddpm_noise(X, STEP + 8, table, key=KEY), ValueError, message)
    with pytest.raises(ValueError, match=r"^ddpm_noise_loss: target is 'noise', expected one of 'epsilon'"):
        ddpm_noise_loss(X, X, STEP, table, target="noise", key=KEY)
    with pytest.raises(ValueError, match=r"^ddpm_noise_loss: prediction has shape \[3, 2\]"):
        ddpm_noise_loss(X[:, :2], X, STEP, table, key=KEY)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, X.double(), "sample has dtype code"),
        (1, X[:, :2].contiguous(), r"model_output has shape \[3, 2\], expected \[3, 4\]"),
        (2, STEP + 8, r"step\[2\] is 10, expected 0 to 9"),
        (3, torch.zeros(2, 7), r"table has shape \[2, 7\], expected \[2, 8\]"),
        (7, None, "key and noise are neither given"),
        (8, STEP - 1, r"row_ids\[0\] is -1, expected 0 to 2\^32 - 1"),
        (10, 2.0, "guidance is given without uncond"),
        (10, math.nan, "guidance is nan, expected a finite number"),
        (11, 0.0, "clip is 0, expected a positive number"),
        (12, 3, "prediction is 3, expected 0 to 2"),
        (13, True, "exact is given without a log variance"),
    ],
)
def test_the_operator_itself_checks_before_it_touches_memory(table, position, value, message):
    args = [X, X, STEP, table, None, None, None, KEY, None, None, 1.0, math.inf, 0, False]
    args[position] = value
    if position == 0:
        args[1] = value
    with pytest.raises(RuntimeError, match=message):
        native.operators.step(*args)
