"""What the generation form holds: a parameter for every field of the recipe, made from the recipe itself."""

import functools
import types
from collections.abc import Callable, Collection
from typing import Any, Literal, Union, get_args, get_origin

import panel_material_ui as pmui
import param

from diffviews.errors import ConfigError
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.options import Option, build, flatten, options_of
from panel_app.fields import field, switch
from panel_app.generation.values import read_number

Read = Callable[..., Any]
"""Returns a field's value from what its widgets hold; raises ConfigError where that makes none."""
Write = Callable[[Any], Any]
"""Returns what a field's widgets hold for a value; of several widgets a tuple."""

_KINDS: dict[Any, type[param.Parameter]] = {
    int: param.Integer, float: param.Number, str: param.String, bool: param.Boolean
}  # fmt: skip


class FormModel(param.Parameterized):
    """Values of a recipe's fields while they are being chosen; widgets are bound to them by name."""

    def __init__(self) -> None:
        super().__init__()
        self._faults: dict[str, str] = {}
        self._shows: dict[str, Callable[[], None]] = {}
        self._loading = False

    @property
    def bound(self) -> Collection[str]:
        """The fields that a widget shows."""
        return self._shows.keys()

    def recipe(self, idle: Collection[str] = (), **values: Any) -> GenerationRecipe:
        """Return the recipe.

        Args:
            idle: fields without an effect now, which keep the recipe's own defaults.
            values: fields that no widget holds.

        Raises:
            DiffViewsError: if what was typed makes no value, or fields contradict each other.
        """
        for name, fault in self._faults.items():
            if name not in idle:
                raise ConfigError(fault)
        chosen = {o.name: getattr(self, o.name) for o in options_of(GenerationRecipe) if o.name not in idle}
        return build(GenerationRecipe, {**chosen, **values})

    def load(self, recipe: GenerationRecipe, **values: Any) -> None:
        """Hold what a recipe says, `values` in the place of its own, and show it in the order of binding."""
        self._loading = True
        try:
            with param.parameterized.discard_events(self):
                self.param.update(**{**flatten(recipe), **values})
            for show in self._shows.values():
                show()
        finally:
            self._loading = False

    def bind(self, name: str, *widgets: Any, read: Read | None = None, write: Write | None = None) -> None:
        """Let widgets show a field and change it; what cannot be read is a fault until it is mended."""
        read, write = read or self._reader(name), write or (lambda value: value)
        busy = False

        def show() -> None:
            nonlocal busy
            if busy:
                return
            busy = True
            try:
                self._faults.pop(name, None)
                written = write(getattr(self, name))
                for widget, value in zip(widgets, written if len(widgets) > 1 else (written,), strict=True):
                    if isinstance(getattr(widget, "end", None), int | float) and isinstance(value, int | float):
                        widget.end = max(widget.end, value)
                    widget.value = value
            finally:
                busy = False

        def take(*_: Any) -> None:
            nonlocal busy
            if busy or self._loading:
                return
            busy = True
            try:
                setattr(self, name, read(*(widget.value for widget in widgets)))
                self._faults.pop(name, None)
            except ConfigError as error:
                self._faults[name] = str(error)
            finally:
                busy = False

        self._shows[name] = show
        self.param.watch(lambda _: show(), name)
        show()
        for widget in widgets:
            widget.param.watch(take, "value")

    def field(
        self, name: str, kind: Any, label: str, help: str | None = None, *, read: Read | None = None,
        write: Write | None = None, **looks: Any,
    ) -> Any:  # fmt: skip
        """Return a labelled widget bound to a field; without `help` it tells what the recipe says of the field."""
        widget = field(kind, label, help or self.param[name].doc, **looks)
        self.bind(name, widget, read=read, write=write)
        return widget

    def plain_field(self, name: str) -> Any:
        """Return a widget for a field that has no other, None where its type is too rich for one."""
        label, parameter = name.replace("_", " ").capitalize(), self.param[name]
        if isinstance(parameter, param.Boolean):
            widget = switch(label, parameter.default, parameter.doc)
            self.bind(name, widget)
            return widget
        if isinstance(parameter, param.Selector):
            texts = {str(value): value for value in parameter.objects}
            return self.field(name, pmui.Select, label, options=list(texts), read=texts.__getitem__, write=str)
        if not isinstance(parameter, param.Number | param.String):
            return None

        def read(text: str) -> Any:
            """Return what is typed; nothing is the recipe's default."""
            whole = isinstance(parameter, param.Integer)
            value = read_number(label, text, whole=whole) if isinstance(parameter, param.Number) else text
            return parameter.default if value in (None, "") else value

        return self.field(name, pmui.TextInput, label, read=read, write=lambda v: "" if v is None else str(v))

    def _reader(self, name: str) -> Read:
        """Return what reads a widget of the field's own type; an empty one is None, or else the recipe's default."""
        parameter = self.param[name]
        kind = int if isinstance(parameter, param.Integer) else float if isinstance(parameter, param.Number) else None
        empty = None if parameter.allow_None else parameter.default
        return lambda value: empty if value is None else value if kind is None else kind(value)


@functools.cache
def form_model() -> type[FormModel]:
    """Return the class whose parameters are the options of `GenerationRecipe`."""
    made = {option.name: _parameter(option) for option in options_of(GenerationRecipe)}
    return type("GenerationFormModel", (FormModel,), made)


def _parameter(option: Option) -> param.Parameter:
    """Return the parameter of an option: of its type, with its choices, default and text."""
    union = get_origin(option.kind) in (Union, types.UnionType)
    kinds = get_args(option.kind) if union else (option.kind,)
    optional = type(None) in kinds
    kind = next(k for k in kinds if k is not type(None))
    looks = {"default": option.default, "doc": option.text, "allow_None": optional}
    if get_origin(kind) is Literal:
        return param.Selector(objects=[*((None,) if optional else ()), *get_args(kind)], **looks)
    return _KINDS.get(kind, param.Parameter)(**looks)
