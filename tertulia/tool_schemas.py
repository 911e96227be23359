"""What a function's signature and docstring say of its arguments: a pydantic model, and the JSON Schema of it.

Raises TypeError with one sentence for a function of which that cannot be had. Runs nothing.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from domain.tools import MAX_DESCRIPTION, ToolContext

MISTAKES = 5
CHARACTERS = 200
"""Most that is quoted of one message, and of the place it is about: the model wrote that."""
VALUES = frozenset({"default", "const", "enum", "examples"})
"""Keywords of JSON Schema whose values are no schemas."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes. `fields` are names of the model's fields with the parameters they stand for.

    `context` is the parameter that gets the ToolContext.
    """

    description: str
    model: type[BaseModel]
    fields: Mapping[str, str]
    context: str | None

    @property
    def schema(self) -> dict[str, Any]:
        schema = without_titles(self.model.model_json_schema())
        schema.pop("description", None)
        return {"properties": {}, **schema}

    def mistakes(self, arguments: Mapping[str, object]) -> str | None:
        """What is wrong with the arguments, in words for a model, without the values; None when they fit."""
        try:
            self.model.model_validate(dict(arguments))
        except ValidationError as error:
            return _words(error)
        except Exception as error:  # of a validator that somebody wrote
            return f"The arguments cannot be read ({type(error).__name__})."
        return None

    def values(self, arguments: Mapping[str, object]) -> dict[str, Any]:
        """By parameter, converted to the annotated types. The arguments must be without mistakes."""
        checked = self.model.model_validate(dict(arguments))
        return {parameter: getattr(checked, field) for field, parameter in self.fields.items()}


def signature_of(function: Callable[..., Any]) -> Signature:
    name, text = _name(function), inspect.getdoc(function) or ""
    if not text.strip():
        raise TypeError(f"The tool {name} has no docstring; its first paragraph tells the model what the tool does.")
    hints, contexts, taken = _hints(function), [], {}
    for parameter in inspect.signature(function).parameters.values():
        _check(name, parameter, hints)
        if hints[parameter.name] is ToolContext:
            contexts.append(parameter.name)
        else:
            taken[parameter.name] = parameter.default
    if len(contexts) > 1:
        raise TypeError(f"The tool {name} takes more than one ToolContext: {', '.join(contexts)}.")
    fields = {f"argument_{index}": parameter for index, parameter in enumerate(taken)}
    model = _model(function, {field: _field(p, hints[p], taken[p], _described(text)) for field, p in fields.items()})
    return Signature(_description(name, text), model, fields, next(iter(contexts), None))


def without_titles(schema: Any) -> Any:  # noqa: ANN401  any part of a JSON Schema
    """The same JSON Schema without the titles that pydantic makes of names. A property may be called "title"."""
    if isinstance(schema, list):
        return [without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        keyword: {name: without_titles(part) for name, part in value.items()}
        if keyword in ("properties", "$defs")
        else value
        if keyword in VALUES
        else without_titles(value)
        for keyword, value in schema.items()
        if keyword != "title"
    }


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        raise TypeError(f"The annotations of the tool {_name(function)} cannot be read: {error}.") from error


def _check(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"The tool {name} takes {parameter}; name and annotate each argument instead.")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise TypeError(f"The tool {name} takes {parameter.name} by position only; arguments come by name.")
    if parameter.name not in hints:
        raise TypeError(f"The parameter {parameter.name} of the tool {name} has no annotation; say its type.")


def _field(name: str, annotation: Any, default: Any, described: Mapping[str, str]) -> tuple[Any, Any]:  # noqa: ANN401
    if name in described:
        annotation = Annotated[annotation, Field(description=described[name])]
    return annotation, Field(... if default is inspect.Parameter.empty else default, alias=name)


def _model(function: Callable[..., Any], fields: dict[str, Any]) -> type[BaseModel]:
    config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    try:
        model: type[BaseModel] = create_model(_name(function), __config__=config, **fields)
        model.model_json_schema()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise TypeError(f"The parameters of the tool {_name(function)} have no JSON Schema: {reason}") from error
    return model


def _description(name: str, docstring: str) -> str:
    text = " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())
    if len(text) > MAX_DESCRIPTION:
        raise TypeError(
            f"The first paragraph of the docstring of the tool {name} has {len(text)} characters; models take at most "
            f"{MAX_DESCRIPTION}."
        )
    return text


def _described(text: str) -> dict[str, str]:
    """Descriptions of parameters, from a section `Args:` in Google's style."""
    section = re.search(r"^Arg(?:ument)?s:[ \t]*\n((?:[ \t]+.*(?:\n|\Z)|[ \t]*\n)*)", text, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^(?=\w+(?: *\([^)]*\))?:)", inspect.cleandoc(section[1]), flags=re.MULTILINE)
    pairs = (re.match(r"(\w+)(?: *\([^)]*\))?:(.*)", entry, re.DOTALL) for entry in entries)
    return {pair[1]: " ".join(pair[2].split()) for pair in pairs if pair}


def _words(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    told = []
    for mistake in mistakes[:MISTAKES]:
        place = ".".join(str(step) for step in mistake["loc"]) or "arguments"
        reason = {"extra_forbidden": "there is no such argument", "missing": "is missing"}.get(mistake["type"])
        told.append(f"{place[:CHARACTERS]}: {(reason or mistake['msg'])[:CHARACTERS]}")
    more = f" (and {len(mistakes) - MISTAKES} more)" if len(mistakes) > MISTAKES else ""
    return "; ".join(told) + more
