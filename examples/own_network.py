"""Train the network of ``small_net.py``, and use it in the place of ``ferplus_compact_robust``.

    python examples/own_network.py

The same from the command line, in the folder of ``small_net.py``:

    faceexpr fit --model.net small_net.SmallNet --model.net.channels 32 --trainer.max_epochs 4
"""

from lightning.pytorch import Trainer, seed_everything
from matplotlib.cbook import get_sample_data
from small_net import SmallNet

from faceexpr import FacePipeline
from faceexpr.callbacks import ClassificationEvaluation
from faceexpr.data import SyntheticFaces
from faceexpr.pipeline import FaceResult
from faceexpr.tasks import ExpressionClassifier


def main(epochs: int = 4, images: int = 1400) -> tuple[FaceResult, ...]:
    """Return what the network says of the faces in a photograph."""
    seed_everything(0)
    model = ExpressionClassifier(net=SmallNet(num_classes=7, channels=32))
    trainer = Trainer(max_epochs=epochs, callbacks=[ClassificationEvaluation()], log_every_n_steps=10)
    trainer.fit(model, SyntheticFaces(images, images // 10, images // 10, batch_size=64))

    portrait = get_sample_data("grace_hopper.jpg", asfileobj=False)  # a photograph that matplotlib brings
    faces = FacePipeline(classifier=model)(portrait).faces
    for face in faces:
        # A network that has seen drawn faces only knows little of photographs.
        print(face.box, face.expression, face.probabilities)
    return faces


if __name__ == "__main__":
    main()
