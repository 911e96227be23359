"""`@tool`: what signature and docstring say to models, what is checked of arguments, and how functions are run."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import AfterValidator, BaseModel, Field

from domain.tools import ToolContext, ToolError, ToolSource
from tertulia import tool
from tertulia.tool_functions import FunctionTool
from tertulia.tool_threads import ToolThreads
from tests.tertulia.tool_contexts import context

who = contextvars.ContextVar("who", default="nobody")


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    title: str
    floor: int = 0


@tool(needs_approval=True, timeout=5, idempotent=True)
async def paint(
    where: Place,
    colour: Colour,
    *,
    ctx: ToolContext,
    coats: Annotated[int, Field(ge=1, le=3)] = 1,
    until: date | None = None,
    mood: Literal["calm", "wild"] = "calm",
    json: list[str] = [],  # noqa: B006  pydantic copies it
) -> dict[str, object]:
    """Paint a room
    in one colour.

    Never paints windows.

    Args:
        where: The room:
            any room.
        colour (Colour): What colour.
        ctx: Not for the model.

    Returns:
        coats: How many.
    """
    return {"who": ctx.user.id, "where": where, "colour": colour, "until": until, "coats": coats, "json": json}


def words(made: FunctionTool, **arguments: object) -> str:
    told = made.check(arguments)
    assert told is not None
    return told


# ── what models are told ──


def test_name_title_and_description_come_from_the_function() -> None:
    assert (paint.name, paint.title) == ("paint", "Paint")
    assert paint.description == "Paint a room in one colour."


def test_the_keywords_of_the_decorator_are_the_tools() -> None:
    assert (paint.needs_approval, paint.timeout, paint.idempotent, paint.source) == (True, 5, True, ToolSource.PLUGIN)
    named = tool(name="x-1", title="An X")(lambda_like)
    assert (named.name, named.title, named.needs_approval, named.timeout) == ("x-1", "An X", False, 30)


def lambda_like() -> None:
    """Does nothing."""


def test_the_schema_is_of_an_object_without_titles_of_schemas_and_without_other_properties() -> None:
    schema = paint.parameters
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["where", "colour"]
    assert "title" not in {**schema, **schema["$defs"]["Place"], **schema["properties"]["coats"]}


def test_a_property_that_is_called_title_stays() -> None:
    assert paint.parameters["$defs"]["Place"]["properties"]["title"] == {"type": "string"}


def test_types_bounds_defaults_and_choices_are_in_the_schema() -> None:
    properties = paint.parameters["properties"]
    assert properties["coats"] == {"default": 1, "maximum": 3, "minimum": 1, "type": "integer"}
    assert properties["mood"]["enum"] == ["calm", "wild"]
    assert paint.parameters["$defs"]["Colour"]["enum"] == ["red", "blue"]
    assert properties["json"] == {"default": [], "items": {"type": "string"}, "type": "array"}


def test_the_section_args_describes_parameters() -> None:
    properties = paint.parameters["properties"]
    assert properties["where"]["description"] == "The room: any room."
    assert properties["colour"]["description"] == "What colour."
    assert "description" not in properties["coats"]


def test_the_context_is_not_in_the_schema() -> None:
    assert "ctx" not in paint.parameters["properties"]


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    schema = {"properties": {}, "type": "object", "additionalProperties": False}
    assert tool(lambda_like).parameters == schema
    assert tool(lambda_like).check({}) is None


# ── functions that are not fit ──


def starred(*names: str) -> None:
    """Does nothing."""


def keyworded(**names: str) -> None:
    """Does nothing."""


def by_position(name: str, /) -> None:
    """Does nothing."""


def bare(name) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Does nothing."""


def silent() -> None: ...


def strange(name: threading.Thread) -> None:
    """Does nothing."""


def unresolved(name: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Does nothing."""


def doubled(one: ToolContext, other: ToolContext) -> None:
    """Does nothing."""


def talkative() -> None: ...


talkative.__doc__ = "word " * 300


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (starred, r"takes \*names: str; name and annotate"),
        (keyworded, r"takes \*\*names: str; name and annotate"),
        (by_position, "takes name by position only"),
        (bare, "parameter name of the tool bare has no annotation"),
        (silent, "silent has no docstring"),
        (strange, "strange have no JSON Schema"),
        (unresolved, "annotations of the tool unresolved cannot be read"),
        (doubled, "more than one ToolContext: one, other"),
        (talkative, "1499 characters; models take at most 1024"),
    ],
)
def test_an_unfit_function_is_refused_in_one_sentence(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(TypeError, match=reason) as caught:
        tool(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", "a.b", "x" * 65, "größe"])
def test_a_name_that_models_do_not_take_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="its name must match"):
        tool(name=name)(lambda_like)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(TypeError, match="number of seconds above 0"):
        tool(timeout=timeout)(lambda_like)


# ── what is checked ──

ROOM = {"where": {"title": "Hall"}, "colour": "red"}


def test_fitting_arguments_have_no_mistake() -> None:
    assert paint.check(ROOM) is None
    assert paint.check({**ROOM, "until": "2026-11-21", "coats": 3}) is None


def test_mistakes_are_words_with_their_place() -> None:
    told = words(paint, where={}, coats=7, mood="bored")
    assert "where.title: is missing" in told
    assert "colour: is missing" in told
    assert "coats: Input should be less than or equal to 3" in told
    assert "mood: Input should be 'calm' or 'wild'" in told


def test_arguments_that_nobody_asked_for_are_refused() -> None:
    assert "size: there is no such argument" in words(paint, **ROOM, size=3)
    assert "ctx: there is no such argument" in words(paint, **ROOM, ctx=None)


def test_what_the_model_wrote_is_not_repeated_at_length() -> None:
    told = words(paint, **{"x" * 100_000: 1}, colour="y" * 100_000, where={"title": ["z" * 100_000]})
    assert len(told) < 2_000
    assert "yy" not in told
    assert "zz" not in told


def test_many_mistakes_are_counted() -> None:
    told = words(paint, **{f"extra_{index}": index for index in range(20)})
    assert told.endswith("(and 17 more)")


def test_a_validator_that_breaks_is_a_mistake_and_no_crash() -> None:
    def broken(value: int) -> int:
        raise RuntimeError("s3cret")

    @tool
    def odd(number: Annotated[int, AfterValidator(broken)]) -> None:
        """Does nothing."""

    assert odd.check({"number": 1}) == "The arguments cannot be read (RuntimeError)."


# ── how they are run ──


async def test_an_async_function_gets_converted_arguments_and_the_context_and_answers_in_json() -> None:
    given = context()
    result = await paint.run(given, {**ROOM, "until": "2026-11-21"})
    assert result == {
        "who": given.user.id,
        "where": {"title": "Hall", "floor": 0},
        "colour": "red",
        "until": "2026-11-21",
        "coats": 1,
        "json": [],
    }


async def test_unfit_arguments_do_not_reach_the_function() -> None:
    with pytest.raises(ToolError, match="colour: is missing"):
        await paint.run(context(), {"where": {"title": "Hall"}})


async def test_a_default_is_not_shared_between_calls() -> None:
    @tool
    async def collect(found: list[int] = []) -> list[int]:  # noqa: B006  pydantic copies it
        """Collect."""
        found.append(1)
        return found

    assert [await collect.run(context(), {}) for _ in range(2)] == [[1], [1]]


async def test_a_plain_function_runs_in_a_thread_of_its_own_with_the_callers_variables() -> None:
    @tool
    def where(ctx: ToolContext) -> list[str]:
        """Say where."""
        return [threading.current_thread().name, who.get(), ctx.call_id]

    who.set("ada")
    result = await where.run(context(), {})
    assert isinstance(result, list)
    assert result[0].startswith("tool-")
    assert result[1:] == ["ada", "call_1"]


@pytest.mark.parametrize("error", [ToolError("full"), ValueError("odd")])
async def test_what_a_plain_function_raises_reaches_the_caller(error: Exception) -> None:
    @tool
    def refuse() -> None:
        """Refuse."""
        raise error

    with pytest.raises(type(error), match=str(error)):
        await refuse.run(context(), {})


async def test_a_plain_function_that_raises_stop_iteration_is_broken_and_does_not_hang() -> None:
    @tool
    def first(names: list[str]) -> str:
        """Take the first."""
        return next(iter(names))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await first.run(context(), {"names": []})


async def test_a_result_that_is_no_json_is_an_error() -> None:
    @tool
    async def thread() -> object:
        """Give a thread."""
        return threading.current_thread()

    with pytest.raises(Exception, match="serialize"):
        await thread.run(context(), {})


async def test_a_function_that_hangs_keeps_only_its_own_thread() -> None:
    threads, held = ToolThreads(2), threading.Event()
    hanging = threads.submit(held.wait)
    assert [await asyncio.wrap_future(threads.submit(threading.get_ident)) for _ in range(3)]
    assert not hanging.done()
    held.set()


async def test_what_is_cancelled_while_all_threads_are_busy_is_never_begun() -> None:
    threads, held, begun = ToolThreads(1), threading.Event(), threading.Event()
    first = threads.submit(held.wait)
    waiting = threads.submit(begun.set)
    assert waiting.cancel()
    held.set()
    assert await asyncio.wrap_future(first)
    await asyncio.wrap_future(threads.submit(lambda: None))
    assert not begun.is_set()


def test_its_threads_do_not_keep_the_process_from_ending() -> None:
    threads, held = ToolThreads(1), threading.Event()
    threads.submit(held.wait)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("tool-"))
    held.set()
