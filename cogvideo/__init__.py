"""CogVideoX from Python: `load` a configuration, call the pipeline with a prompt, look at its result.

`again` makes a video again from its record.

    import sys; sys.path.insert(0, "PATH/TO/THE/CLONE")      # unless Python runs there
    from cogvideo import load
    pipe = load("configs/tiny_t2v.yaml")
    pipe("a red circle moves right on a black background", seed=3).save("a.mp4")

docs/python.md describes the rest.
"""
import sys
from pathlib import Path

SOURCE = str(Path(__file__).resolve().parents[1] / "sat")
if SOURCE not in sys.path:
    sys.path.insert(0, SOURCE)
for _path in sorted(Path(SOURCE).iterdir()):  # modules of general names, which a program may have too
    _other = getattr(sys.modules.get(_path.stem), "__file__", None)
    if _other is not None and not Path(_other).resolve().is_relative_to(SOURCE):
        raise ImportError(f"cogvideo has a module {_path.stem}, and {_other} is imported under that name already; "
                          "rename that one, or import cogvideo in a process of its own")

from cogvideo.loading import load
from cogvideo.pipeline import Pipeline
from cogvideo.remaking import again
from cogvideo.result import Result

__all__ = ["Pipeline", "Result", "again", "load"]
