"""The form of the Make page: what a video is made from, and how."""
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from cogvideo.studio.defaults import Defaults
from cogvideo.studio.forms import (
    CHOICE,
    FLAG,
    GUIDER,
    NUMBER,
    SAMPLER,
    SCHEDULE,
    WHOLE,
    Field,
    carried,
    class_named,
    classes,
    fields_of,
    help_of,
)
from cogvideo.studio.making import CONTINUE, EDIT, Asked
from cogvideo.studio.models import Model
from cogvideo.studio.studio import Studio, note, problem
from common.console import told
from common.errors import UserError

PROMPT = "a red circle moves right on a black background"
ROLES = (SAMPLER, SCHEDULE, GUIDER)
SEEDS = 2 ** 31
PICTURES, CLIPS = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff"], [".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif"]


@dataclass(frozen=True)
class Role:
    """The choice of a sampler, schedule or guider: its class, what its form begins with, and the parameters of now."""

    name: gr.Dropdown
    first: gr.State
    now: gr.State


@dataclass(frozen=True, eq=False)
class Begun:
    """What the form of a class's parameters begins with.

    Gradio draws a form again only if what it begins with has changed, so no two are equal, even with equal values: a
    user may have changed the form meanwhile.
    """

    cls: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """The form's components by the names of `Asked`, and one `Role` for sampler, schedule and guider each.

    `settled` is the model whose own settings the form was given, empty for those of a record. Gradio tells of a choice
    twice, and the second time must not undo what was filled in since the first.
    """

    fields: Mapping[str, Any]
    settled: gr.State
    roles: Mapping[str, Role]
    about: gr.HTML
    dice: gr.Button

    @classmethod
    def built(cls, studio: Studio) -> "Form":
        """Build the form where it is called."""
        names = list(studio.models)
        own = Defaults.of(studio.models[names[0]])
        fields: dict[str, Any] = {"model": gr.Dropdown(names, value=names[0], label="Model", elem_id="make-model")}
        about = gr.HTML(_about(studio, names[0]), elem_id="make-about")
        fields |= _what(own)
        with gr.Row(equal_height=True):
            seed = gr.Number(0, label="Seed", precision=0, elem_id="make-seed", min_width=90)
            dice = gr.Button("Random seed", elem_id="make-dice", min_width=90, size="sm")
            samples = gr.Number(1, label="Videos each", precision=0, elem_id="make-samples", min_width=90)
            steps = gr.Number(own.steps, label="Steps", precision=0, elem_id="make-steps", min_width=90)
        fields |= {"seed": seed, "samples": samples, "steps": steps}
        roles = {role: _role(role, *own.parts[role]) for role in ROLES}
        with gr.Accordion("LoRAs", open=False):
            fields["loras"] = gr.Dropdown(list(studio.known_loras()), value=[], multiselect=True, label="LoRAs",
                                          info=f"files and folders in {studio.loras.name}/")
            fields["strengths"] = gr.Textbox("", label="Strengths", info="one for each, such as 1, 0.5; empty: 1")
        return cls(fields, gr.State(names[0]), roles, about, dice)

    @property
    def inputs(self) -> list:
        """The components whose values `asked` takes, in its order."""
        return [*self.fields.values(), *(part for role in self.roles.values() for part in (role.name, role.now))]

    def asked(self, given: Sequence[Any]) -> Asked:
        """Return what a user filled in."""
        values = dict(zip(self.fields, given, strict=False))
        rest = given[len(self.fields):]
        parts = {role: (rest[2 * i], rest[2 * i + 1] or {}) for i, role in enumerate(self.roles)}
        return Asked(**values, parts=parts)

    @property
    def filled(self) -> list:
        """The components that `values` fills in."""
        return [*self.fields.values(), self.settled, *(part for role in self.roles.values() for part in (
            role.name, role.first, role.now))]

    def values(self, values: Mapping[str, Any], settled: str = "") -> list:
        """Return what fills in the form; `values` may leave out fields, and has (class, parameters) for roles."""
        filled = [*(values.get(name, gr.skip()) for name in self.fields), settled]
        for role in self.roles:
            filled += [values[role][0], Begun(*values[role]), values[role][1]] if role in values else [gr.skip()] * 3
        return filled

    def wire(self, studio: Studio) -> None:
        """Connect the form's events."""
        self.dice.click(lambda: random.SystemRandom().randrange(SEEDS), None, self.fields["seed"], queue=False,
                        show_progress="hidden")
        chosen = self.fields["model"]
        chosen.input(lambda name, settled: self._of_model(studio, name, settled), [chosen, self.settled], self.filled,
                     show_progress="hidden")
        gr.on(None, lambda name: _about(studio, name), chosen, self.about, show_progress="hidden")

    def _of_model(self, studio: Studio, name: object, settled: str) -> list:
        """Return the form with a model's own settings, or as it is if it has them already."""
        try:
            if name != settled:
                model = studio.model(name)
                return self.values(_settings(model), model.name)
        except UserError:
            pass  # what is wrong with it is told below the choice
        return [gr.skip() for _ in self.filled]


def _what(own: Defaults) -> dict[str, Any]:
    """Build what the video shows and its size, for a model's own settings."""
    fields: dict[str, Any] = {
        "prompts": gr.Textbox(PROMPT, label="Prompts", info="one a line", lines=2, elem_id="make-prompts"),
        "negative": gr.Textbox("", label="Negative prompt", info="empty: none", elem_id="make-negative")}
    with gr.Row():
        fields["image"] = gr.File(label="First picture", file_types=PICTURES, elem_id="make-image", height=140,
                                  visible=own.takes_pictures, min_width=140)
        fields["last"] = gr.File(label="Last picture (optional)", file_types=PICTURES, elem_id="make-last", height=140,
                                 visible=own.takes_pictures, min_width=140)
        fields["clip"] = gr.File(label=_clip_label(own), file_types=CLIPS, elem_id="make-clip", height=140,
                                 visible=own.takes_clips, min_width=140)
    with gr.Accordion("What becomes of the clip", open=False):
        fields["use"] = gr.Radio([EDIT, CONTINUE], value=EDIT, label="The video is to")
        fields["strength"] = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength",
                                       info="share of the steps that are left")
        fields["kept"] = gr.Number(2, label="Latent frames kept", info="of the clip's end", precision=0)
    with gr.Row():
        fields["frames"] = gr.Dropdown(own.lengths, value=own.frames, label="Frames", info="of the video",
                                       elem_id="make-frames", min_width=90)
        fields["height"] = gr.Number(own.height, label="Height", info=own.sides(0), precision=0,
                                     elem_id="make-height", min_width=90)
        fields["width"] = gr.Number(own.width, label="Width", info=own.sides(1), precision=0,
                                    elem_id="make-width", min_width=90)
    return fields


def _role(role: str, own: str, values: dict[str, Any]) -> Role:
    """Build the choice of a class, at first `own` with its `values`, and a form of its parameters that follows it."""
    name = gr.Dropdown(list(classes(role)), value=own, label=role.capitalize(), elem_id=f"make-{role}")
    first, now = gr.State(Begun(own, values)), gr.State(values)
    with gr.Accordion(f"Parameters of the {role}", open=False):

        @gr.render(inputs=first)
        def parameters(begin: Begun) -> None:
            if begin.cls not in classes(role):
                return
            cls = class_named(role, begin.cls)
            gr.Markdown(help_of(cls), elem_classes="help")
            with gr.Row(elem_classes="parameters"):
                for field in fields_of(cls):
                    shown = _component(field, begin.values.get(field.name, field.default))
                    shown.change(lambda value, known, name=field.name: {**known, name: value}, [shown, now], now,
                                 queue=False, show_progress="hidden")

    def other(chosen: str | None, begin: Begun, known: dict[str, Any]) -> tuple:
        if chosen == begin.cls:
            return gr.skip(), gr.skip()
        values = carried(role, chosen, known)
        return Begun(chosen or "", values), values

    name.input(other, [name, first, now], [first, now], show_progress="hidden")  # queued: the second after the first
    return Role(name, first, now)


def _component(field: Field, value: Any) -> Any:
    """Build the component for a parameter."""
    default = "none" if field.default is None else field.shown(field.default)
    told_default = "needed" if field.required else f"default: {default}"
    settings = {"label": field.name, "value": field.shown(value), "info": told_default, "min_width": 150,
                "interactive": True}
    if field.kind == FLAG:
        return gr.Checkbox(**settings)
    if field.kind == CHOICE:
        return gr.Dropdown(list(field.choices), **settings)
    if field.kind in (WHOLE, NUMBER):
        digits = 0 if field.kind == WHOLE else None
        return gr.Number(precision=digits, **settings)  # without bounds, outside of which Gradio would send nothing
    return gr.Textbox(max_lines=1, **settings)


def _about(studio: Studio, name: object) -> str:
    """Return what the page says of a model: what it needs, or why it cannot be used."""
    try:
        model = studio.model(name)
        source = Defaults.of(model).source
    except UserError as error:
        return problem(told(error))
    missing = model.missing()
    if missing is not None:
        return (f'{problem(missing)}<details class="help"><summary>Where its weights go</summary>'
                f"<pre>{escape(model.header())}</pre></details>")
    if not source or source.endswith(" if any"):
        return note("makes videos of prompts")
    return note(f"needs {'an' if source[0] == 'i' else 'a'} {source}")


def filled_form(model: Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form's values for a model, of which some are given, and no files."""
    frames = gr.Dropdown(choices=Defaults.of(model).lengths, value=values["frames"])
    return {**_settings(model), **values, "frames": frames}


def _settings(model: Model) -> dict[str, Any]:
    """Return the form's values for a model as it is configured."""
    own = Defaults.of(model)
    return {
        "image": gr.File(visible=own.takes_pictures, value=None),
        "last": gr.File(visible=own.takes_pictures, value=None),
        "clip": gr.File(visible=own.takes_clips, value=None, label=_clip_label(own)),
        "frames": gr.Dropdown(choices=own.lengths, value=own.frames),
        "height": gr.Number(value=own.height, info=own.sides(0)),
        "width": gr.Number(value=own.width, info=own.sides(1)), "steps": own.steps, **own.parts}


def _clip_label(own: Defaults) -> str:
    if own.source == "control if any":
        return "Control clip, which the video follows (optional)"
    return "Control clip, which the video follows" if own.source == "control" else "Clip (optional)"
