import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


@pytest.fixture
def make_trainer(tmp_path):
    def build(callback, **options):
        options.setdefault("logger", TensorBoardLogger(tmp_path, name="runs", default_hp_metric=False))
        options.setdefault("max_epochs", 1)
        return Trainer(
            callbacks=[callback],
            default_root_dir=tmp_path,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=options.pop("enable_checkpointing", False),
            log_every_n_steps=1,
            **options,
        )

    return build
