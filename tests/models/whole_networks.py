"""What a network by its name must be able to: learn, be explained, be exported."""

from functools import partial

import torch
from red_finder import save_task

from faceexpr.pipeline.programs import write_program
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.visualization.explain import class_maps


def check_network(kind, name, folder, **options):
    """Train two steps, explain two faces and write the program, which is compared with the network."""
    torch.manual_seed(0)
    task = ExpressionClassifier(net=partial(kind, name=name, **options))
    faces = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    optimizer = torch.optim.SGD(task.net.parameters(), lr=1e-3)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(task.net.train()(faces), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    assert class_maps(task.net.eval(), faces).max() > 0
    save_task(task, folder / "last.ckpt")
    assert "largest difference" in write_program(folder / "last.ckpt", folder / "net.pt2", None)
