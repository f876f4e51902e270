"""What all reports share: counts by reason, entries that are read again, and a file that is private and valid JSON."""

import json
import math

import pytest

from open_clip_idplugin.storage.reports import (
    Skip,
    count_reasons,
    read_entries,
    reason_lines,
    with_counts,
    write_report,
)

ENTRIES = [Skip(f"{number}.jpg", "unreadable", "cut off") for number in range(5)] + [Skip("x", "bad key")]


def test_counts_and_lines():
    assert count_reasons(ENTRIES) == {"unreadable": 5, "bad key": 1}
    assert reason_lines("left out", ENTRIES) == [
        "left out: 5 x unreadable (0.jpg, 1.jpg, 2.jpg, ...)",
        "left out: 1 x bad key (x)",
    ]


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_report_is_read_again(tmp_path, mode):
    target = tmp_path / "report.json"
    values = {"mean": math.nan, "of": "Zoë", "old name": "caf\udce9.jpg", "left_out": with_counts(ENTRIES, "samples")}
    write_report(target, values, **({} if mode is None else {"mode": mode}))
    assert target.stat().st_mode & 0o777 == (mode or 0o600)
    read = json.loads(target.read_text(encoding="utf-8"))
    assert read_entries(read["left_out"], "samples") == ENTRIES
    assert (read["mean"], read["of"], read["old name"]) == (None, "Zoë", "caf\udce9.jpg")
    write_report(target, {"of": "Zoë"})
    assert "Zoë" in target.read_text(encoding="utf-8")
