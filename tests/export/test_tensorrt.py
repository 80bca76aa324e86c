"""TensorRT takes the graph. To load an engine takes a GPU: here it is built, for GPUs that are elsewhere."""

from __future__ import annotations

import json
import subprocess

import pytest

from robustmdiff.export.tensorrt import CAPABILITIES, build_engine
from robustmdiff.refusal import Refusal


@pytest.mark.engines
def test_an_engine_with_the_whole_sampler_is_built_without_a_gpu(with_draws, tmp_path, monkeypatch):
    done, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done.append(run(*a, **k)) or done[-1])
    engine, config = tmp_path / "engine", with_draws.predictor.run.model.config
    built = build_engine(with_draws.folder / "model.onnx", engine, config.max_tokens, config.draws)
    assert built.capabilities == CAPABILITIES
    assert built.bytes == engine.stat().st_size > (with_draws.folder / "model.onnx").stat().st_size
    assert built.layers > 1000
    assert "[E]" not in done[0].stderr  # so TensorRT begins what it logs as an error
    assert json.loads(json.dumps(built._asdict()))["package"] == "tensorrt_rtx"


@pytest.mark.engines
def test_what_it_cannot_build_is_told_in_its_own_words(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(Refusal, match=r"broken\.onnx: TensorRT cannot build .*arse"):
        build_engine(broken, tmp_path / "engine", 8, 4)
    assert not (tmp_path / "engine").exists()


def test_without_tensorrt_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("robustmdiff.export.tensorrt.PACKAGES", ("no_such_package",))
    with pytest.raises(Refusal, match="pip install tensorrt_rtx"):
        build_engine(tmp_path / "a", tmp_path / "b", 8, 4)
