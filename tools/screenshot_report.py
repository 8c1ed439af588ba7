"""Screenshots of a report in headless Chromium: python tools/screenshot_report.py OUT/report.html -o docs/images.

Writes report_light.png, report_dark.png (1,200 pixels wide) and report_phone.png (390), whole pages unless ``--height``
says otherwise; with ``--pdf``, report_print.pdf as well. tools/check_page.py checks what needs no eyes.
Needs a Chromium or Chrome: Debian's package `chromium`, or the path of one in $CHROMIUM.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from chromium import NAMES, program
from PIL import Image, ImageChops

VIEWS = {"light": (1200, False), "dark": (1200, True), "phone": (390, False)}
TALL = 9000
COLOURS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--height", type=int, help="cut pages to so many pixels")
    parser.add_argument("--pdf", action="store_true", help="also print it")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name, (width, dark) in VIEWS.items():
        file = chosen.output / f"{chosen.page.stem}_{name}.png"
        image = cropped(shot(browser(), chosen.page, width, dark))
        image = image.crop((0, 0, image.width, min(image.height, chosen.height or image.height)))
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file}: {image.width}x{image.height}, {file.stat().st_size / 1e3:.0f} kB")
    if chosen.pdf:
        printed(browser(), chosen.page, chosen.output / f"{chosen.page.stem}_print.pdf")


def printed(program: str, page: Path, file: Path) -> None:
    """The page as it comes out of a printer."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={file}"]
    subprocess.run([program, *flags, page.resolve().as_uri()], capture_output=True, check=True)
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


def browser() -> str:
    """The path of a Chromium."""
    found = program()
    if found is None:
        sys.exit(f"no Chromium: install one ({', '.join(NAMES)}), or set CHROMIUM to its path")
    return found


def shot(program: str, page: Path, width: int, dark: bool) -> Image.Image:
    """The page in a window ``width`` wide. A frame holds it, since a headless window is 500 pixels wide at least."""
    with tempfile.TemporaryDirectory() as folder:
        frame, file = Path(folder, "frame.html"), Path(folder, "shot.png")
        source = page.resolve().as_uri()
        frame.write_text(f'<body style="margin:0"><iframe src="{source}" width={width} height={TALL} style="border:0">')
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000"]
        flags += [
            f"--user-data-dir={folder}/profile",
            f"--window-size={max(width, 500)},{TALL}",
            f"--screenshot={file}",
        ]
        flags += ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
        completed = subprocess.run([program, *flags, frame.as_uri()], capture_output=True, text=True, check=False)
        if not file.is_file():
            sys.exit(f"{program}: {completed.stderr.strip() or 'wrote no screenshot'}")
        return Image.open(file).convert("RGB").crop((0, 0, width, TALL))


def cropped(image: Image.Image) -> Image.Image:
    """Without the empty lower end."""
    empty = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
    box = ImageChops.difference(image, empty).getbbox()
    return image if box is None else image.crop((0, 0, image.width, min(image.height, box[3] + 16)))


if __name__ == "__main__":
    main()
