"""The rows of Table 5 compared with one another, sample by sample."""

from __future__ import annotations

from experiments.paper.cells import NOT_RUN
from experiments.paper.commands import TEST
from experiments.paper.results import Results
from experiments.paper.tables import TABLE_5
from faceexpr.cli.compare import on_all_and_unleaked
from faceexpr.cli.comparison_report import sections
from faceexpr.metrics.comparison import check_same
from faceexpr.metrics.predictions import file_name, read_samples

RESAMPLES, SEED = 2_000, 0


def comparison(results: Results) -> list[str]:
    """Return accuracies and pairwise tests of the runs whose predictions are stored; first seeds."""
    found = {name: results.first(key, settings) for name, key, settings, _ in TABLE_5}
    files = {name: run.folder / TEST / file_name("test") for name, run in found.items() if run is not None}
    runs = {name: read_samples(path) for name, path in files.items() if path.is_file()}
    if len(runs) < 2:
        return [NOT_RUN, ""]
    check_same(runs)
    compared, note = on_all_and_unleaked(runs, RESAMPLES, SEED)
    return [*sections(compared, 4), "", note, ""]
