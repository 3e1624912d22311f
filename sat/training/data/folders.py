"""The folders of a training run: what it writes must not become what it reads."""
from pathlib import Path

from common.errors import ConfigError
from configuration.settings import TrainingSettings


def check_apart(settings: TrainingSettings) -> None:
    """Raise ConfigError if a run would write below a folder of clips, which its samples would then be counted in."""
    for key in ("train_data", "valid_data"):
        for folder in getattr(settings, key) or ():
            if settings.folder.resolve().is_relative_to(Path(folder).resolve()):
                raise ConfigError(f"args.save is {settings.save}, inside {folder} of args.{key}, so that samples would "
                                  "be taken for clips; choose another args.save")
