"""The files of WIDER FACE's protocol, as MATLAB writes them."""

import numpy as np
from scipy.io import savemat

from faceexpr.metrics.detection import WIDER_LEVELS


def cells(values):
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def write_levels(folder, events):
    """Write the benchmark's files; events hold names, which hold boxes (x, y, w, h) and the numbers of each level."""
    names = cells([cells([np.array(name) for name in event]) for event in events.values()])
    boxes = cells([cells([np.array(one[0], np.int32).reshape(-1, 4) for one in e.values()]) for e in events.values()])
    shared = {"event_list": cells([np.array(event) for event in events]), "file_list": names, "face_bbx_list": boxes}
    savemat(folder / "wider_face_val.mat", shared)
    for place, level in enumerate(WIDER_LEVELS):
        numbers = [
            cells([np.array(one[1][place], np.uint8).reshape(-1, 1) for one in e.values()]) for e in events.values()
        ]
        savemat(folder / f"wider_{level}_val.mat", {**shared, "gt_list": cells(numbers)})
