"""The models that the page offers: the presets of configs/, and one that the command line names."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arguments import get_args
from cogvideo.loading import check_settings
from common.console import told
from common.errors import UserError
from common.files import REPOSITORY
from common.text import lines, read_text
from configuration.settings import Arguments
from configuration.yaml_files import existing_path, read_file
from inference.checks import check_run, source_of_prompts
from inference.prompts import Source
from inference.sizes import ModelLimits, model_limits

SHARED = REPOSITORY / "configs" / "inference.yaml"
FIRST = ("tiny_t2v", "tiny_i2v", "tiny_control")  # those whose weights come with the repository


@dataclass(frozen=True)
class Model:
    """A model that the page offers: a name, and the words of the command line that choose it."""

    name: str
    words: tuple[str, ...]

    def arguments(self, *words: str) -> Arguments:
        """Return the settings of a run with this model and further words of the command line."""
        return get_args([*self.words, *words])

    @property
    def file(self) -> Path:
        """The first of its configuration files."""
        return Path(self.words[1])

    def limits(self) -> ModelLimits:
        """Return what the model can make."""
        return model_limits(self.arguments().model_config)

    def source(self) -> Source | None:
        """Return what each prompt needs beside its text: an image, a control clip, or None."""
        args = self.arguments()
        return source_of_prompts(args.sampling, args.model_config)

    def missing(self) -> str | None:
        """Return a line on what keeps the model from being used, such as weights that are not there; None: nothing."""
        try:
            check_run(self.arguments())
        except UserError as error:
            return told(error)
        return None

    def header(self) -> str:
        """Return the comment at the head of its file, which says where its weights go."""
        found = lines(read_text(Path(existing_path(str(self.file), Path.cwd(), REPOSITORY))))
        count = next((i for i, line in enumerate(found) if not line.startswith("#")), len(found))
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in found[:count])


def offered(base: Sequence[str], overrides: Sequence[str]) -> dict[str, Model]:
    """Return the models by name: the one of the command line first, if `base` has files, then those of configs/.

    Raises ConfigError for files and overrides that are wrong.
    """
    found = list(_presets())
    check_settings("the studio", (), overrides)
    if base:
        name = " ".join([*(Path(file).stem for file in base), *overrides])
        given = Model(name, ("--base", *map(str, base), str(SHARED), *overrides))
        given.limits()
        found = [given, *(model for model in found if model.name != name)]
    return {model.name: model for model in found}


def _presets() -> Iterator[Model]:
    """Yield the presets for sampling, which are those that name prompts; small ones first."""
    files = sorted((REPOSITORY / "configs").glob("*.yaml"), key=lambda file: file.stem not in FIRST)
    for file in files:
        settings = read_file(str(file)).get("args") or {}
        if "load" in settings and "input_file" in settings:
            yield Model(file.stem, ("--base", str(file), str(SHARED)))
