"""Write a classifier as one file that runs with torch alone, and a face to try it on.

    python examples/export.py
    python examples/plain_torch.py expressions.pt2 face.png

The second script needs nothing of this package.
"""

from pathlib import Path

from matplotlib.cbook import get_sample_data
from PIL import Image

from faceexpr import FacePipeline
from faceexpr.cli.export import export


def main(model: str = "ferplus_compact_robust") -> None:
    """Write ``expressions.pt2``, and a face to try it on.

    Args:
        model: a checkpoint, a run folder, or the name of a model that comes with the package.
    """
    export(Path("expressions.pt2"), ckpt_path=model, channels=3)  # as `faceexpr export` does

    portrait = get_sample_data("grace_hopper.jpg", asfileobj=False)
    [face] = FacePipeline()(portrait).faces
    with Image.open(portrait) as photograph:
        photograph.crop(tuple(round(side) for side in face.box)).save("face.png")


if __name__ == "__main__":
    main()
