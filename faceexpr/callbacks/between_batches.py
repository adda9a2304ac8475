"""The record of progress in a checkpoint that is saved between two training batches."""

from __future__ import annotations

from typing import Any


def record_between_batches(checkpoint: dict[str, Any]) -> None:
    """Let training go on with the batch before which the checkpoint is saved, and with nothing twice.

    When a batch begins, everything that follows the one before it is over: its validation, the end of its epoch, the
    steps of all schedulers. At the end of a batch, where Lightning saves, a part of this is still to come, and would
    not come any more when training resumes. But what Lightning restores exactly is a record made at the end of a
    batch, which it completes. So this takes back the beginning of the new batch and the very end of the one before.

    Args:
        checkpoint: as Lightning has put it together in ``on_train_batch_start``; changed in place.
    """
    fit = checkpoint["loops"]["fit_loop"]
    progress = fit["epoch_loop.batch_progress"]
    done = progress["current"]["completed"]
    for counter in (progress["total"], progress["current"]):
        whole = counter["completed"]
        # At the start of an epoch this makes -1 of 0, which Lightning completes to 0.
        counter.update(ready=whole, started=whole, processed=whole, completed=whole - 1)
    progress["is_last_batch"] = False
    # The position of the loggers, which is completed as well.
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    for loader in fit["state_dict"].get("combined_loader", []):
        if "batches" in loader:
            loader["batches"] = done
    if done == 0:
        # The epoch of the last batch that was trained, as in checkpoints that are saved at the end of an epoch.
        checkpoint["epoch"] = max(0, checkpoint["epoch"] - 1)


def record_after_training(checkpoint: dict[str, Any], by_steps: bool) -> None:
    """Let a longer training begin with the next epoch.

    Where the length is given in steps, Lightning would take the last epoch up again, and end it a second time.

    Args:
        checkpoint: as Lightning has put it together in ``on_train_end``; changed in place.
        by_steps: whether the length is given in steps.
    """
    if by_steps:
        record_between_batches(checkpoint)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        progress["current"].update(ready=0, started=0, processed=0, completed=-1)
    checkpoint["epoch"] = max(0, checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] - 1)
