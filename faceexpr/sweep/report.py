"""What a sweep leaves in its folder and on the console: the table, the figure, the best configuration."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faceexpr.sweep.figure import draw_sweep
from faceexpr.sweep.table import Row, as_csv, as_lines, best_row, described, folder_name, ranked
from faceexpr.utils.files import say, write_file


@dataclass(frozen=True)
class Report:
    """Where a sweep's results go and what they are about.

    Args:
        folder: of the sweep.
        parameters: the options that were swept.
        monitor: the metric that decides.
        mode: whether ``max`` or ``min`` is better.
    """

    folder: Path
    parameters: Sequence[str]
    monitor: str
    mode: str

    def table(self, rows: Sequence[Row]) -> None:
        """Write ``table.csv``."""
        write_file(self.folder / "table.csv", as_csv(rows, self.parameters, self.monitor))

    def results(self, rows: Sequence[Row], planned: int) -> None:
        """Write the table and the figure, and print the trials from the best to the worst.

        Args:
            rows: the trials that are over.
            planned: number of all trials.
        """
        self.table(rows)
        say(as_lines(ranked(rows, self.mode), self.parameters, self.monitor))
        if len(rows) < planned:
            say(f"{len(rows)} of {planned} trials are over")
        files = [self.folder / "table.csv"]
        figure = draw_sweep(rows, self.parameters, self.monitor, self.mode, f"Sweep {self.folder.name}")
        if figure is not None:
            content = io.BytesIO()
            figure.savefig(content, format="png")
            files.append(self.folder / "sweep.png")
            write_file(files[-1], content.getvalue())
        say(f"written: {', '.join(map(str, files))}")

    def best(self, rows: Sequence[Row]) -> Row | None:
        """Return the best trial, and print it with the command that measures it."""
        best = best_row(rows, self.mode)
        if best is None:
            say("no trial is done, so none is the best")
            return None
        run = self.folder / folder_name(best.trial)
        say(f"best: {run}, {self.monitor} {best.value:.4f}")
        say(f"again: {self._again()}")
        say(f"measure it with: {shlex.join(['faceexpr', 'test', '--ckpt_path', str(run)])}")
        return best

    def configuration(self, best: Row, rows: Sequence[Row], config: str) -> None:
        """Write ``best.yaml``.

        Args:
            best: the best trial.
            rows: all trials that are over.
            config: the configuration of the best trial.
        """
        heading = f"# The best of {len(rows)} trials by {self.monitor} ({best.value:.4f}), {folder_name(best.trial)}:"
        write_file(self.folder / "best.yaml", f"{heading} {described(best.parameters)}\n#   {self._again()}\n{config}")

    def _again(self) -> str:
        return shlex.join(["faceexpr", "fit", "--config", str(self.folder / "best.yaml")])
