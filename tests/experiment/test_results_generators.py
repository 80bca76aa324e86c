"""The tables of generators, from record to page."""

import json

from tools.results import tables
from tools.results.generators import NONE

PAGE = "a\n<!-- generator: small -->\nold\n<!-- end of generator -->\nb\n"


def row(task, method, measure, value, low=None, high=None):
    return {
        "task": task, "method": method, "measure": measure, "value": value, "low": low, "high": high,
        "patients": 7,
    }  # fmt: skip


def test_tasks_measured_alike_share_a_table(tmp_path):
    record = {
        "about": "Trained in a " + "very " * 30 + "small way.",
        "commit": "abc",
        "date": "2026-01-01",
        "rows": [
            row("a -> b", "mean", "PSNR, dB", 26.041, 25.0, 27.0),
            row("a -> b", "mean", "SSIM", 0.5),
            row("a -> b", "draw", "PSNR, dB", -0.26),
            row("b -> a", "mean", "PSNR, dB", 20.0),
            row("b -> a", "mean", "SSIM", 0.25, 0.2, 0.3),
            row("text", "prompts", "R@10", 1.0),
        ],
    }
    (tmp_path / "generator_small.json").write_text(json.dumps(record), encoding="utf-8")
    text = tables.rewritten(PAGE, tmp_path)
    assert text.startswith("a\n<!-- generator: small -->\nTrained in a very very")
    assert text.endswith("<!-- end of generator -->\nb\n")
    lines = text.splitlines()
    assert max(map(len, lines[:6])) <= 118
    assert "small way. Commit abc, 2026-01-01." in " ".join(lines)
    head = lines.index("| task | method | PSNR, dB | SSIM | patients |")
    assert lines[head + 2 : head + 6] == [
        "| a -> b | mean | 26.04 (25.00 to 27.00) | .500 | 7 |",
        "|  | draw | -.26 |  | 7 |",
        "| b -> a | mean | 20.00 | .250 (.200 to .300) | 7 |",
        "",
    ]
    assert lines.count("| task | method | R@10 | patients |") == 1
    assert "| text | prompts | 1.000 | 7 |" in lines
    assert tables.rewritten(text, tmp_path) == text


def test_without_a_record_the_page_says_so(tmp_path):
    assert tables.rewritten(PAGE, tmp_path) == PAGE.replace("old\n", NONE)
