"""The tasks: what a small photo site does after an upload."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from spooler import Fail, spool


@spool(retries=1, backoff=0.2)
def preview(photo: Path, out: Path, size: int = 320) -> None:
    """Make a small JPEG of a photo, upright however the camera was held."""
    try:
        with Image.open(photo) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        # Another attempt would not help. Any other exception means: try again.
        raise Fail(f"not a picture: {photo}") from error
    small.thumbnail((size, size))
    save(small, out)


@spool
def contact_sheet(previews: Path, out: Path) -> None:
    """Make one picture of all previews in a grid, each above its file name."""
    columns, cell, caption, gap = 4, 320, 28, 8
    files = sorted(previews.glob("*.jpg"), key=lambda file: file.name.lower())
    rows = -(-len(files) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, file in enumerate(files):
        row, column = divmod(number, columns)
        left, top = column * cell, row * (cell + caption)
        with Image.open(file) as image:
            tile = ImageOps.pad(image, (cell - 2 * gap,) * 2, color="white")
        sheet.paste(tile, (left + gap, top + gap))
        middle = (left + cell // 2, top + cell)
        draw.text(middle, file.name, fill="black", anchor="ma", font_size=18)
    save(sheet, out)


def save(image: Image.Image, out: Path) -> None:
    """Save as JPEG under another name, then rename: ``out`` is whole or absent.

    A task may run twice (at least once is the promise), so it must be no harm
    to do all of it again.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    image.save(part, "JPEG", quality=85)
    part.replace(out)
