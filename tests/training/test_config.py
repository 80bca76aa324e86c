from __future__ import annotations

import pytest
import yaml

from robustmdiff.encoders.config import ModelConfig
from robustmdiff.training.config import ConfigError, TrainConfig, dump_config, load_config, make_config


def test_round_trip_through_yaml(tmp_path):
    config = make_config(
        {"learning_rate": 3e-4, "p_scale": {"xray": 0.5}, "valid_missing": [0.0, 0.3], "model": {"d_h": 32}}
    )
    assert config.model == ModelConfig(d_h=32)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == set(
        TrainConfig.model_fields
    )  # defaults are written too
    other = load_config(path, seed=5, model={"layers": 3})
    assert (other.seed, other.model) == (5, ModelConfig(d_h=32, layers=3))


def test_exponent_without_a_dot_is_a_number(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("learning_rate: 1e-4\n", encoding="utf-8")  # a string in YAML 1.1
    assert load_config(path).learning_rate == 1e-4


def test_empty_file_is_the_default(tmp_path):
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == TrainConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lerning_rate": 0.1}, "unknown key 'lerning_rate' with value 0.1 .did you mean 'learning_rate'"),
        ({"model": {"d_v": 3}}, r"unknown key 'model\.d_v' with value 3 .did you mean 'model\.d_h'"),
        ({"learning_rate": -1}, "learning_rate is -1, expected greater than 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', expected a valid number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected a finite number"),
        ({"epochs": 2.5}, "epochs is 2.5, expected a valid integer"),
        ({"precision": "int8"}, "precision is 'int8', expected 'fp32', 'bf16' or 'fp16'"),
        ({"p_min": 0.5, "p_max": 0.2}, r"p_min is 0\.5, expected at most p_max = 0\.2"),
        ({"accumulate": 9, "batch_size": 4}, "accumulate is 9, expected at most batch_size = 4"),
        ({"p_scale": {"xray": -1}}, r"p_scale\.xray is -1\.0, expected a number of at least 0"),
        ({"valid_missing": [1.0]}, r"valid_missing has 1\.0, expected rates in \[0, 1\)"),
        ({"model": {"heads": 5}}, "d_h is 64, expected a multiple of heads = 5"),
        ({"model": {"d_h": "wide"}}, r"model\.d_h is 'wide', expected a valid integer"),
        ({"model": 3}, "model is 3, expected"),
    ],
    ids=lambda x: str(x)[:40] if isinstance(x, dict) else "",
)
def test_bad_values_in_one_sentence(values, message):
    with pytest.raises(ConfigError, match=f"^config: .*{message}") as caught:
        make_config(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1\n", "is not YAML"), ("- 1\n", "holds a list, expected lines of `key: value`")],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none.yaml")


def test_a_setting_of_an_earlier_version_is_read_where_it_says_what_is_still_done():
    assert make_config({"model": {"start": "noise", "d_h": 32}}).model == ModelConfig(d_h=32)
    with pytest.raises(ValueError, match="start is 'observed', which is no longer there; train anew"):
        make_config({"model": {"start": "observed"}})
