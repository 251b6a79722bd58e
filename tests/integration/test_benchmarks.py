"""The instrument works: every row is there. Never a timing: those are for people."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from benchmarks.plot import plot
from benchmarks.table import BARE, Row, Table, at_least, at_most

ROOT = Path(__file__).resolve().parents[2]

WHAT = {
    "enqueue, fast, 1 producer",
    "enqueue, fast, 4 producers",
    "enqueue, safe, 1 producer",
    "enqueue, safe, 4 producers",
    "spool_many of 50, safe",
    "drain, 1 worker",
    "drain, 2 workers",
    "drain, 1 worker, from a batch",
    "drain, 2 workers, from a batch",
    "drain, 1 worker, log level info",
    "drain, 1 worker, while 2 producers run",
    "latency from .spool(), fast, p50",
    "latency from .spool(), fast, p99",
    "latency from a rename, p50",
    "latency from a rename, p99",
    "start of spoold to the first run",
    "start of spoold to the first run, beside imports",
    "gap when a worker is replaced, p50",
    "gap when a worker is replaced, longest",
    "drain, 2 daemons on one spool",
    "drain, 2 workers on one spool",
    "a task, 5,000 waiting",
    "first run, 5,000 waiting, later by",
    "supervisor's RSS, 5,000 waiting",
    "supervisor's PSS, 5,000 waiting",
    "drain, 5,000 due tomorrow",
    "latency, 5,000 due tomorrow, p50",
    "latency, 5,000 due tomorrow, p99",
    "idle CPU, empty spool",
    "idle CPU, 5,000 due tomorrow",
    "supervisor's RSS, empty spool",
    "supervisor's PSS, empty spool",
    "supervisor's RSS, 5,000 due tomorrow",
    "supervisor's PSS, 5,000 due tomorrow",
    "first run, 5,000 due tomorrow, later by",
    "a task, 5,000 to the last one",
    "worker's RSS after 10 %",
    "worker's RSS after 50 %",
    "worker's RSS after 100 %",
    "worker's RSS, 10 % to 100 %",
    "supervisor's RSS after 10 %",
    "supervisor's RSS after 50 %",
    "supervisor's RSS after 100 %",
    "supervisor's RSS, 10 % to 100 %",
}
DIFFERENCES = ("later by", "10 % to 100 %", "is replaced")
"""Rows whose figure may be less than nothing."""


def measure(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--no-peers", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def row(**given: Any) -> Row:
    return Row("ext4", "drain", "tasks/s", **given)


@pytest.mark.timeout(300)
def test_benchmarks_measure_every_row_and_leave_nothing_behind(tmp_path: Path) -> None:
    given, report, figures = (tmp_path / name for name in ("given", "json", "figures"))
    given.mkdir()
    places = ("--place", "ext4", "--dir", str(given))
    files = ("--json", str(report), "--write", str(figures))
    done = measure("--scale", "0.001", *places, *files)

    rows = json.loads(report.read_text())["rows"]
    assert {row["what"] for row in rows} == WHAT
    page = (figures / "figures.md").read_text()
    for each in rows:
        assert each["what"] in done.stdout
        assert each["what"] in page
        for series in ("spooler", "beside", "ratio"):
            if each[series] is not None:
                [figure] = each[series]["rounds"]
                assert figure > 0 or each["what"].endswith(DIFFERENCES), each
    ET.parse(figures / "figures.svg")
    assert list(given.iterdir()) == []


@pytest.mark.timeout(120)
def test_benchmarks_measure_a_part_in_memory(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    only = ("--place", "tmpfs", "--only", "fast 1", "--scale", "0.001")
    measure(*only, "--json", str(report))
    [found] = json.loads(report.read_text())["rows"]
    assert (found["place"], found["what"]) == ("tmpfs", "enqueue, fast, 1 producer")


def test_a_target_is_judged_by_the_median_of_the_ratios() -> None:
    given = {"other": BARE, "limits": (at_least(0.7, BARE),)}
    met = row(spooler=[6, 8, 8], beside=[10, 10, 10], **given)
    assert met.result() == "met"
    missed = row(spooler=[6, 6, 8], beside=[10, 10, 10], **given)
    assert missed.result() == "missed: ≥ 0.7 of bare loop"


def test_a_target_names_all_that_is_missed() -> None:
    limits = (at_most(0.15), at_most(1, "uWSGI"))
    found = row(spooler=[0.2], peers={"uWSGI 2.0": [0.1]}, limits=limits)
    assert found.result() == "missed: ≤ 0.15 tasks/s, ≤ uWSGI"


def test_a_target_is_open_while_the_peer_is_not_there() -> None:
    found = row(spooler=[9], limits=(at_least(1), at_least(1, "uWSGI")))
    assert found.result() == "open: uWSGI not measured"
    assert row(spooler=[9]).result() == ""


def test_a_peer_that_failed_is_in_the_table_with_its_reason() -> None:
    table = Table()
    table.add("ext4", "drain, 1 worker", "tasks/s", 10)
    found = table.row("ext4", "drain, 1 worker", "tasks/s")
    found.peers["one | two"] = [5]
    found.failed["three"] = "2 of 10 lost"
    text = table.peers()
    assert "one \\| two" in text
    assert "failed: 2 of 10 lost" in text


def test_the_plot_escapes_names() -> None:
    table = Table()
    table.add("ext4", "drain, 1 worker", "tasks/s", 20_000, (BARE, 30_000))
    found = table.row("ext4", "drain, 1 worker", "tasks/s")
    found.peers["<b>&\"'"] = [0.5]
    texts = [each.text for each in ET.fromstring(plot(table)).iter() if each.text]
    assert "<b>&\"'" in texts
    assert texts.index("bare loop") < texts.index("spooler") < texts.index("<b>&\"'")
