"""The experiment on conversationEvents in its short form: real processes that write and read on one PostgreSQL."""

from tests.system.feed_experiment import Count, compared

EVENTS = 1_000
CREATED, RENAMED = ("ConversationCreated", "conv_1"), ("ConversationUpdated", "conv_1")


async def test_readers_miss_nothing_while_many_write_where_a_plain_sequence_makes_them_miss_some(postgres: str) -> None:
    outcome = await compared(postgres, EVENTS, seed=7, progress=print)
    assert outcome.passes, outcome.figures


def counted(*numbers: int, joins: bool = True) -> Count:
    """What is found when these are told of one creation and three renamings."""
    count = Count()
    count.compare([(1, *CREATED), (2, *RENAMED), (3, *RENAMED), (4, *RENAMED)], numbers, joins=joins)
    return count


def test_the_experiment_notices_what_was_missed_doubled_or_out_of_order() -> None:
    assert counted(1, 2, 3, 4) == Count()
    assert counted(1, 4) == Count(joined=2)
    assert counted(1, 4, joins=False) == Count(missed=2)
    assert counted(4) == Count(joined=2, missed=1)
    assert counted(1, 2) == Count(missed=2)
    assert counted(1, 2, 2, 3, 4) == Count(doubled=1)
    assert counted(2, 1, 3, 4) == Count(disordered=1)
