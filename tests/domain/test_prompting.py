"""Fitting a conversation into a budget."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from domain.conversations import GenerationSettings, Message, MessagePart, ModelParams, PartKind, Role
from domain.models import Model
from domain.prompting import MESSAGE_OVERHEAD, Budget, budget, fit
from tests.doubles import heard

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def message(tokens: int, role: Role = Role.USER, text: str = "x") -> Message:
    parts = (MessagePart(0, PartKind.TEXT, text),) if text else ()
    return Message("msg_1", "conv_1", None, role, NOW, parts, tokens, {})


def test_the_worked_example_of_the_module_holds() -> None:
    model = Model("m", "p", context_tokens=100)
    settings = GenerationSettings("m", "Be kind.", ModelParams(max_tokens=20))
    allowed = budget(model, settings, system_tokens=10)
    assert allowed == Budget(limit=80, system_tokens=10, history=66)
    prompt = fit([message(30), message(30), message(20)], settings, allowed)
    assert prompt.dropped == 1
    assert prompt.input_tokens == 58 + 14


def test_without_max_tokens_a_quarter_of_the_window_is_kept_for_the_answer() -> None:
    allowed = budget(Model("m", "p", context_tokens=1_000), GenerationSettings("m"), system_tokens=0)
    assert allowed.history == 750


def test_an_unknown_window_bounds_nothing() -> None:
    allowed = budget(Model("m", "p"), GenerationSettings("m"), system_tokens=0)
    assert fit([message(10**6)] * 50, GenerationSettings("m"), allowed).dropped == 0


def test_messages_without_text_are_left_out() -> None:
    prompt = fit([message(1), message(0, Role.ASSISTANT, "")], GenerationSettings("m"), Budget(None, 0, None))
    assert [m.role for m in heard(prompt.messages)] == [Role.USER]


def test_a_wish_comes_last() -> None:
    prompt = fit([message(1)], GenerationSettings("m", "s"), Budget(None, 0, None), "Shorter.")
    assert [m.texts for m in heard(prompt.messages)] == [("s",), ("x",), ("Shorter.",)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 400))
def test_the_newest_stay_without_gaps_and_the_budget_is_kept(costs: list[int], history: int) -> None:
    messages = [message(cost, text=str(n)) for n, cost in enumerate(costs)]
    prompt = fit(messages, GenerationSettings("m"), Budget(history, 0, history))
    kept = [int(m.texts[0]) for m in heard(prompt.messages)]
    assert kept == list(range(len(costs) - len(kept), len(costs)))
    assert kept[-1] == len(costs) - 1
    used = sum(costs[n] + MESSAGE_OVERHEAD for n in kept)
    assert used == prompt.input_tokens
    assert len(kept) == 1 or used <= history
    if len(kept) < len(costs) and kept:
        assert used + costs[kept[0] - 1] + MESSAGE_OVERHEAD > history
