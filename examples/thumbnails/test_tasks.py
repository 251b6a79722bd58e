"""The example's own tests: the fixture ``spool`` comes with spooler."""

from pathlib import Path

import pytest
import tasks
from PIL import Image

from spooler.errors import TaskFailed
from spooler.testing import LocalSpool

PHOTOS = Path(__file__).parent / "photos"


def test_preview_makes_a_small_picture(spool: LocalSpool, tmp_path: Path) -> None:
    out = tmp_path / "cat.jpg"
    tasks.preview.spool(photo=PHOTOS / "cat.png", out=out, size=64)
    spool.run()
    with Image.open(out) as small:
        assert max(small.size) == 64


def test_what_is_no_picture_fails_at_once(spool: LocalSpool, tmp_path: Path) -> None:
    tasks.preview.spool(photo=PHOTOS / "broken.jpg", out=tmp_path / "out.jpg")
    with pytest.raises(TaskFailed, match="not a picture"):
        spool.run()
    assert [report["reason"] for report in spool.failed] == ["fail"]


def test_a_preview_that_cannot_be_written_is_tried_again(
    spool: LocalSpool, tmp_path: Path
) -> None:
    (tmp_path / "full").write_text("in the way of a folder")
    out = tmp_path / "full" / "cat.jpg"
    tasks.preview.spool(photo=PHOTOS / "cat.png", out=out)
    assert [ran.outcome for ran in spool.run(check=False)] == ["retry"]
    (tmp_path / "full").unlink()
    assert [ran.outcome for ran in spool.advance(1)] == ["ack"]
    assert out.exists()


def test_the_sheet_has_all_previews(spool: LocalSpool, tmp_path: Path) -> None:
    for name in ("cat.png", "pagoda.jpg"):
        out = (tmp_path / "previews" / name).with_suffix(".jpg")
        tasks.preview.spool(photo=PHOTOS / name, out=out)
    sheet = tmp_path / "sheet.jpg"
    tasks.contact_sheet.using(priority=9).spool(
        previews=tmp_path / "previews", out=sheet
    )
    spool.run()
    with Image.open(sheet) as made:
        assert made.size == (1280, 348)
