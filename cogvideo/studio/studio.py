"""The studio: what all pages share, which are models, the loaded engine, folders, and the thread that makes videos."""
import copy
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cogvideo.pipeline import Pipeline
from cogvideo.studio.models import Model, offered
from common.errors import DataError
from common.files import check_writable, whole_file
from common.text import printable
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain
from inference.made_from import contents_of_weights
from inference.output_folder import remove_partial_files
from inference.sizes import ModelLimits

# Settings of Gradio's events that make videos: they wait for each other, whatever page and user they come from.
QUEUED: Final[Mapping[str, Any]] = {"concurrency_id": "sampling", "concurrency_limit": 1}

Listener = tuple[Callable, list, list]  # of an event: a function, the components that it is given and those it fills


@dataclass
class Studio:
    """What the pages share: models, folders, and the thread in which models run.

    `models` are those offered, by name. `outputs` is the folder in which all videos are looked for; those of the page
    are below `outputs/studio`. `studies` is the folder of the studies' reports. `uploads` has copies of what users
    gave, `loras` the LoRAs that can be chosen; `temporary` is Gradio's own folder, which goes at the end. Models are
    loaded and run in `worker`, which has one thread: `studio.worker.submit(function)`. An event that waits for it has
    the settings `QUEUED`.
    """

    models: Mapping[str, Model]
    outputs: Path
    uploads: Path
    loras: Path
    studies: Path
    temporary: Path
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "studio"))
    closing: threading.Event = field(default_factory=threading.Event)
    _loaded: tuple[str, Pipeline] | None = None

    @classmethod
    @contextmanager
    def opened(cls, base: Sequence[str], overrides: Sequence[str], outputs: str, loras: str, studies: str
               ) -> Iterator["Studio"]:
        """Context manager for a studio over these folders; at its end, what runs is stopped. Raises as its parts do."""
        models = offered(base, overrides)
        folder = check_writable(outputs, "--output-dir").resolve()
        uploads = check_writable(folder / "studio" / "uploads", "--output-dir")
        for run in (folder / "studio").iterdir():
            if run.is_dir():
                remove_partial_files(run)  # of a studio that was ended in the middle
        temporary = Path(tempfile.mkdtemp(prefix="studio_"))
        studio = cls(models, folder, uploads, Path(loras).resolve(), Path(studies).resolve(), temporary)
        try:
            yield studio
        finally:
            studio.closing.set()
            studio.worker.shutdown(wait=False, cancel_futures=True)
            shutil.rmtree(temporary, ignore_errors=True)

    def model(self, name: object) -> Model:
        """Return the model of this name. Raises DataError for a name that is not offered."""
        if not isinstance(name, str) or name not in self.models:
            raise DataError(f"model {str(name)[:80]!r} is none of {', '.join(self.models)}")
        return self.models[name]

    def pipeline(self, args: Arguments, limits: ModelLimits) -> Pipeline:
        """Return the pipeline of a checked run; only another sampler needs no loading. Call it in `worker` alone.

        The model of the last call is kept in memory, with the text embeddings of its last prompts.
        """
        key = _weights_key(args)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # first, so that two never are in memory
            self._loaded = key, Pipeline.load(args, limits)
        loaded = self._loaded[1]
        engine = copy.copy(loaded.engine)
        engine.config = ModelConfig.read(args.model_config)
        engine.sampler = instantiate_from_config(engine.config.sampler)
        return replace(loaded, args=args, limits=limits, engine=engine)

    def upload(self, given: object) -> str | None:
        """Return the path of a copy of an uploaded file, named by its content; None for no file.

        Raises DataError for a path that is not in the folder where uploads arrive.
        """
        if given in (None, "", []):
            return None
        path = Path(str(given)).resolve()
        if not path.is_relative_to(self.temporary.resolve()) or not path.is_file():
            raise DataError("an uploaded file is not there any more; upload it again")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:20]
        target = self.uploads / f"{digest}{path.suffix[:10].lower()}"
        if not target.exists():
            with whole_file(target) as temporary:
                shutil.copyfile(path, temporary)
        return str(target)

    def known_loras(self) -> dict[str, Path]:
        """Return the LoRAs that can be chosen, by name: files and folders directly in their folder."""
        if not self.loras.is_dir():
            return {}
        found = sorted(path for path in self.loras.iterdir() if not path.name.startswith("."))
        return {printable(path.name): path for path in found if path.is_dir() or path.suffix in (".safetensors", ".pt")}

    def new_folder(self) -> Path:
        """Return a new folder for the videos of a run, `outputs/studio/DATE_TIME`."""
        stem = time.strftime("%Y%m%d_%H%M%S")
        for number in range(1000):
            folder = self.outputs / "studio" / (stem if number == 0 else f"{stem}_{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                continue
        raise DataError(f"{self.outputs / 'studio'} has no room for another run; clear it")

    def url(self, path: Path) -> str:
        """Return the address at which the page serves a file of `outputs`, in which the uploads are too."""
        return "/outputs/" + quote(os.fsencode(path.resolve().relative_to(self.outputs)))


def problem(line: str) -> str:
    """Return the HTML of the one line that tells of an error."""
    return f'<div class="problem" role="alert">error: {escape(line)}</div>'


def note(line: str) -> str:
    """Return the HTML of a remark."""
    return f'<div class="note">{escape(line)}</div>'


def _weights_key(args: Arguments) -> str:
    """Return a text that is the same for settings which need the same weights, in the same files, whatever their
    sampler."""
    model = dict(plain(args.model_config))
    sampler = model.pop("sampler_config", None)
    weak = instantiate_from_config(sampler).guider.weak if sampler else None
    run = {"load": args.run.load, "loras": args.run.loras, "dtype": args.run.dtype, "device": args.run.device}
    contents = contents_of_weights(args, ModelConfig.read(args.model_config))
    return json.dumps([model, weak, run, args.memory, args.autoencoder, contents], default=str)
