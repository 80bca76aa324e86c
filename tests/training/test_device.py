"""Where a run computes: on the accelerator of the machine, unless another device is named."""

from __future__ import annotations

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from robustmdiff.training.config import LoopConfig
from robustmdiff.training.loop import make_accelerator

THERE, CPU = torch.device("meta"), torch.device("cpu")


@pytest.fixture
def with_an_accelerator(monkeypatch):
    """A machine that has one, as far as torch and Accelerate say."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: THERE)
    monkeypatch.setattr(PartialState, "default_device", THERE)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # no later test computes there


def test_each_run_of_a_process_has_the_device_that_it_names(with_an_accelerator, tmp_path):
    asked = [None, CPU, None, CPU]
    found = [make_accelerator(LoopConfig(), tmp_path, device).device for device in asked]
    assert found == [THERE, CPU, THERE, CPU]


def test_without_an_accelerator_it_is_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert make_accelerator(LoopConfig(), tmp_path).device == CPU
