"""The instrument works: every row is there. Never a timing: those are for people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WHAT = {
    "put, fast, 1 process",
    "put, safe, 1 process",
    "put, fast, 4 processes",
    "put, safe, 4 processes",
    "put 1,000 in a batch, safe",
    "drain, 1 worker, in a batch",
    "drain, 2 workers, in a batch",
    "drain, 1 worker",
    "drain, 1 worker, from start to exit",
    "drain, 1 worker, log level info",
    "drain, 1 worker, 1,000 due tomorrow",
    "drain, 2 workers",
    "drain, 2 workers, from start to exit",
    "drain, 2 workers, log level info",
    "latency from .spool(), fast, p50",
    "latency from .spool(), fast, p99",
    "latency from a rename, p50",
    "latency from a rename, p99",
    "idle CPU, empty spool",
    "idle CPU, 1,000 due tomorrow",
    "supervisor's RSS, empty spool",
    "supervisor's PSS, empty spool",
    "supervisor's RSS, 1,000 due tomorrow",
    "supervisor's PSS, 1,000 due tomorrow",
    "supervisor's RSS, 20 waiting",
    "supervisor's PSS, 20 waiting",
    "supervisor's RSS, 1,000 waiting",
    "supervisor's PSS, 1,000 waiting",
    "start to first run, empty spool",
    "start to first run, 1,000 due tomorrow",
    "start to first run, 20 waiting",
    "start to first run, 1,000 waiting",
}


@pytest.mark.timeout(120)
def test_benchmarks_measure_every_row_and_leave_nothing_behind(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--scale", "0.01"]
    command += ["--dir", str(given), "--json", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    rows = json.loads(report.read_text())["rows"]
    on_disk = [row for row in rows if row["place"] != "tmpfs"]
    assert {row["what"] for row in on_disk} == WHAT
    for row in rows:
        assert row["what"] in done.stdout
        for series in ("spooler", "bare", "ratio"):
            figures = row[series] and row[series]["rounds"]
            assert figures is None or (len(figures) == 1 and figures[0] > 0), row
    assert list(given.iterdir()) == []
