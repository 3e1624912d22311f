"""Checks of a sampler, schedule and guider from docs/samplers.md, and of this project's own."""
import re
from pathlib import Path

import pytest

from arguments import get_args
from benchmarks.check_sampler import main
from common.console import run
from configuration import targets

PAGE = Path(__file__).resolve().parents[2] / "docs/samplers.md"


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The page's module, and a copy with mistakes, both importable and not yet allowed as targets."""
    shown = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]
    (tmp_path / "shown_parts.py").write_text(shown)
    (tmp_path / "wrong_parts.py").write_text(shown.replace("(first + 3 * second)", "(3 * first + second)")
                                             .replace("(1 - np.arange(n) / n)", "(np.arange(n) / n)"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(targets, "_opened", set())


@pytest.mark.parametrize("words", [
    ["shown_parts.RalstonSampler"], ["shown_parts.PowerDiscretization", "--params", "{power: 7}"],
    ["shown_parts.Late", "--params", "{scale: 3}"], ["sgm.sampling.EulerAncestralSampler"],
    ["sgm.sampling.AdaptiveSampler"], ["sgm.discretizer.RectifiedFlowDiscretization"],
    ["sgm.guiders.APG", "--params", "{scale: 2}"],
])
def test_what_the_page_shows_and_our_own_pass(parts, capsys, words):
    main(words)
    out = capsys.readouterr().out
    assert out.count("ok ") >= 4 and "FAILED" not in out


def test_what_is_not_as_declared_fails(parts, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["wrong_parts.RalstonSampler"])
    assert stopped.value.code == 1
    assert re.search(r"FAILED order on the EDM ramp: .*, declared 2", capsys.readouterr().out)


@pytest.mark.parametrize("target, says", [
    ("wrong_parts.PowerDiscretization", "noise does not fall from step to step"),
    ("shown_parts.Late", "scale missing"),
    ("wrong_parts.np", "may not be named"), ("sgm.denoiser.Denoiser", "neither a Sampler"),
    ("no_parts.Sampler", "does not resolve"),
])
def test_mistakes_are_one_line(parts, capsys, target, says):
    assert run(main, [target]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and err.startswith("error: ")


@pytest.mark.parametrize("params, says", [
    ("[1]", "--params is '[1]'; it must be names with values"), ("{a: [}", "--params is not a readable YAML file"),
    ("a", "--params is plain text"), ("{s_chrun: 1}", "did you mean s_churn?"),
    ("{num_steps: 3}", "--params num_steps: the checks give a sampler theirs"),
    ("{guider_config: {target: sgm.guiders.VanillaCFG}}", "--params guider_config: the checks give"),
])
def test_params_that_cannot_be_used_are_one_line(capsys, params, says):
    assert run(main, ["sgm.sampling.EulerEDMSampler", "--params", params]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and err.startswith("error: ")


def test_files_cannot_name_them_until_the_command_line_allows_it(parts, tmp_path):
    (tmp_path / "model.yaml").write_text("model: {sampler_config: {target: shown_parts.RalstonSampler}}")
    base = ["--base", str(tmp_path / "model.yaml")]
    for words, allowed in (([], False), (["--allow-targets", "shown_parts"], True)):
        config = get_args([*base, *words]).model_config
        if allowed:
            targets.check_config(config)
        else:
            with pytest.raises(targets.ConfigError, match="may not be named"):
                targets.check_config(config)
