"""The same answers from a Ray cluster of two local nodes, of which one is killed on the way."""

from __future__ import annotations

import pytest

from robustmdiff.prediction.parts import Parts
from robustmdiff.prediction.to_parquet import predict_to_parquet

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

BATCH = 3


@pytest.fixture
def cluster():
    """Two nodes of one CPU, so that each has one of two workers."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_killed_node_loses_nobody(predictor, data, tmp_path, cluster, monkeypatch):
    (second,) = cluster.worker_nodes
    kept, numbers = Parts.keep, []

    def keep(parts, number, answered):
        if len(numbers) == 2:
            assert ray.available_resources().get("CPU", 0) == 0  # both are at work
            cluster.remove_node(second, allow_graceful=False)
        numbers.append(number)
        kept(parts, number, answered)

    predict_to_parquet(predictor, tmp_path / "alone.parquet", data, batch=BATCH)
    monkeypatch.chdir(data.parent)
    monkeypatch.setattr(Parts, "keep", keep)
    out = tmp_path / "answers.parquet"
    predict_to_parquet(predictor, out, data.name, batch=BATCH, workers=2, engine="ray")
    assert [node["NodeID"] for node in ray.nodes() if not node["Alive"]] == [second.node_id]
    assert sorted(numbers) == list(range(len(numbers)))
    assert out.read_bytes() == (tmp_path / "alone.parquet").read_bytes()
