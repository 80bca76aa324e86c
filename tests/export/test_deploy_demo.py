"""tools/deploy_demo.py in parts: the whole of it takes a demonstration and minutes (`make deploy-demo`)."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.pictures.dicom import read_dicom
from tools import deploy_demo


def test_without_a_demonstration_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="runs/demo: holds no finished run, expected that of `make demo`"):
        deploy_demo.main()
    assert not (tmp_path / "runs").exists()


def test_the_real_client_is_told_what_the_folder_says(with_draws, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy_demo, "EXPORTED", with_draws.folder)
    monkeypatch.setattr(deploy_demo, "OUT", tmp_path)
    patient = with_draws.patients[0]
    with deploy_demo.server() as address:
        said = deploy_demo.asked(address, with_draws.artefact, patient)
    expected = with_draws.artefact.diagnose(patient).probability
    assert said == pytest.approx(list(expected.values()), abs=deploy_demo.CLOSE)


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy_demo, "EXPORTED", tmp_path / "nowhere")
    monkeypatch.setattr(deploy_demo, "OUT", tmp_path)
    with pytest.raises(SystemExit, match="did not start: error: "), deploy_demo.server():
        pass


def test_a_scanner_sends_what_the_patient_has(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy_demo, "XRAY", tmp_path / "xray.dcm")
    shares = np.random.default_rng(0).random((1, 6, 8), dtype=np.float32)
    deploy_demo.write_xray(Patient("p", {"xray": shares}))
    found = read_dicom(tmp_path / "xray.dcm", Modality("xray", "image", shape=(1, 6, 8)))
    assert np.abs(found.pixels - shares).max() <= 0.5 / 65535 + 1e-7
    assert found.is_share
