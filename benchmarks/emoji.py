"""A folder of 64x64 colour pictures to train on: the emoji of Noto (Google) and of Twemoji.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python -m benchmarks.emoji emoji-datasource-*.tgz --output=emoji
    python -m tfgan_mnist.train --config=configs/colour64.toml --dataset=emoji

Noto's pictures are under Apache-2.0, Twemoji's under CC BY 4.0. An eighth of the emoji go to the
test folder. All skin tones of an emoji, and the pictures of both sets, lie on the same side.
"""

import argparse
import hashlib
import re
import tarfile
from pathlib import Path

PICTURE = re.compile(r"package/img/(\w+)/64/([0-9a-f-]+)\.png")
NOT_IN_THE_BASE = re.compile(r"-1f3f[b-f]|-fe0f")  # skin tones, and "show as a picture"
PARTS = 8


def split_of(emoji: str) -> str:
    """train or test, by the code points without skin tones: "1f44b-1f3fb" as "1f44b"."""
    base = NOT_IN_THE_BASE.sub("", emoji)
    return "train" if hashlib.sha256(base.encode()).digest()[0] % PARTS else "test"


def main() -> None:
    """Writes the pictures of the archives to `train` and `test` in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archives", nargs="+", type=Path, help="of npm pack")
    parser.add_argument("--output", required=True, type=Path)
    flags = parser.parse_args()
    counts = dict.fromkeys(("train", "test"), 0)
    for split in counts:
        (flags.output / split).mkdir(parents=True, exist_ok=True)
    for path in flags.archives:
        with tarfile.open(path) as archive:
            for member in archive:
                if match := PICTURE.fullmatch(member.name):
                    source, emoji = match.groups()
                    split = split_of(emoji)
                    picture = archive.extractfile(member).read()
                    (flags.output / split / f"{source}-{emoji}.png").write_bytes(picture)
                    counts[split] += 1
    print(f"{flags.output}: {counts['train']:,} pictures to train, {counts['test']:,} to test")


if __name__ == "__main__":
    main()
