"""A dataset of 150 classes that needs no download: letters drawn with the fonts that matplotlib brings.

    python -m benchmarks.glyphs glyphs      # glyphs/train.parquet, glyphs/test.parquet

Classes are the first 150 letters and digits of the Latin, Greek and Cyrillic alphabets that do not look like one
before them (Latin A is Greek Alpha), in the twelve DejaVu fonts (sans, serif and mono; upright, slanted, bold), which
have them all. An image of 32 x 32 pixels without colours is one of them in a font, at a size, an angle, a slant and a
place of its own, dark on light or light on dark, blurred and noisy. 140 training images a class, 40 test images; every
draw has a seed.
glyphs/untrained is a ResNet of 0.4 million random weights to begin with.
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFilter, ImageFont
from transformers import set_seed
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

SIDE, DRAWN = 32, 96  # pixels of an image, and of the canvas that it is made from
BLOCKS = ((0x21, 0x7F), (0x391, 0x3CA), (0x410, 0x450), (0x402, 0x410), (0x450, 0x460), (0xC0, 0x180))
LOOKS_LIKE = 0.12  # difference of two pictures over the ink in both


def fonts() -> list[ImageFont.FreeTypeFont]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted(file for file in folder.glob("DejaVu*.ttf") if "Display" not in file.name)
    return [ImageFont.truetype(str(file), 56) for file in files]


def picture(letter: str, font: ImageFont.FreeTypeFont) -> PILImage.Image:
    """White on black, in the middle of the canvas."""
    canvas = PILImage.new("L", (DRAWN, DRAWN))
    ImageDraw.Draw(canvas).text((DRAWN / 2, DRAWN / 2), letter, fill=255, font=font, anchor="mm")
    return canvas


def distinct_letters(number: int) -> list[str]:
    """Letters and digits that do not look like one before them."""
    upright = next(font for font in fonts() if font.getname() == ("DejaVu Sans", "Book"))
    letters: list[str] = []
    seen: list[np.ndarray] = []
    for code in (code for block in BLOCKS for code in range(*block)):
        letter = chr(code)
        if unicodedata.category(letter) not in ("Lu", "Ll", "Nd"):
            continue
        small = np.asarray(picture(letter, upright).resize((24, 24)), float) / 255
        ink = small.sum()
        if all(np.abs(small - other).sum() > LOOKS_LIKE * (ink + other.sum()) for other in seen):
            letters.append(letter)
            seen.append(small)
        if len(letters) == number:
            return letters
    raise ValueError(f"there are only {len(letters)} such letters, {number} were asked for.")


def draw(letter: str, font: ImageFont.FreeTypeFont, random: np.random.Generator) -> PILImage.Image:
    """One image."""
    angle, slant = random.normal(0, 0.2), random.normal(0, 0.2)
    size = random.uniform(0.55, 1.1, 2) * SIDE / DRAWN * 1.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[1, slant], [0, 1]]
    inverse = np.linalg.inv(turn * size)
    middle = np.array([SIDE / 2, SIDE / 2]) + random.normal(0, 2.0, 2)
    shift = np.array([DRAWN / 2, DRAWN / 2]) - inverse @ middle
    affine = (*inverse[0], shift[0], *inverse[1], shift[1])
    small = picture(letter, font).transform(
        (SIDE, SIDE), PILImage.Transform.AFFINE, affine, PILImage.Resampling.BICUBIC
    )
    small = small.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.2)))
    paper, ink = random.permutation([random.uniform(0, 90), random.uniform(150, 255)])
    pixels = paper + (ink - paper) * np.asarray(small, float) / 255 + random.normal(0, 25, (SIDE, SIDE))
    return PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write(folder: Path, num_classes: int = 150, per_class: int = 140, test_per_class: int = 40) -> None:
    letters, known, random = distinct_letters(num_classes), fonts(), np.random.default_rng(0)
    names = [f"{letter} U+{ord(letter):04X}" for letter in letters]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    folder.mkdir(parents=True, exist_ok=True)
    for part, number in (("train", per_class), ("test", test_per_class)):
        labels = np.repeat(np.arange(num_classes), number)
        images = [draw(letters[k], known[random.integers(len(known))], random).convert("RGB") for k in labels]
        rows = Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features)
        rows.to_parquet(str(folder / f"{part}.parquet"))


def write_untrained(folder: Path, num_classes: int = 150) -> None:
    set_seed(0)
    pixels = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = TimmWrapperConfig(
        architecture="test_resnet", pretrained_cfg={**pixels, "crop_pct": 1.0}, num_labels=num_classes
    )
    TimmWrapperForImageClassification(config).save_pretrained(folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    write(folder)
    write_untrained(folder / "untrained")


if __name__ == "__main__":
    main()
