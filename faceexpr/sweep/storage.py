"""Where a study is kept: a journal file, or any storage of Optuna's."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from faceexpr.utils.errors import FaceExprError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}


def open_study(
    storage: str, name: str, mode: str, sampler: BaseSampler | None = None, pruner: BasePruner | None = None
) -> Study:
    """Open a study, new or not; the same one for every process that asks for it.

    Args:
        storage: a URL that Optuna takes, or the path of a journal file.
        name: name of the study in the storage.
        mode: ``max`` or ``min``.
        sampler: draws the parameters of a search.
        pruner: decides which trials are worth no further epoch.

    Raises:
        FaceExprError: there is no such storage, or it holds a study with this name and the other mode.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    try:
        return optuna.create_study(
            storage=_open(storage), study_name=name, direction=DIRECTIONS[mode], load_if_exists=True, sampler=sampler,
            pruner=pruner,
        )  # fmt: skip
    except Exception as error:  # each database driver raises its own; the URL may hold a password and is not repeated
        raise FaceExprError(
            f"the study cannot be opened in its storage ({type(error).__name__}: {' '.join(str(error).split())}); "
            "expected the path of a journal file or a storage URL of Optuna, such as sqlite:///sweep.db"
        ) from error


def _open(storage: str) -> BaseStorage:
    if "://" in storage:
        from optuna.storages import get_storage

        return get_storage(storage)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    # Windows lets administrators alone make the symbolic link that locks elsewhere, on old network file systems too.
    lock = JournalFileOpenLock(storage) if os.name == "nt" else None
    return JournalStorage(JournalFileBackend(storage, lock_obj=lock))
