"""`tertulia` with faults in the middle of it, whose exceptions quote everything that they were called with."""

from typing import Any, NoReturn

from domain.account_service import AccountService
from domain.conversation_service import ConversationService
from domain.prompting import Prompter
from domain.streaming import ReplyStream
from tertulia import cli

CRASH_ON = "crash-"
"""Where this is among the arguments, there is a fault; so the same server does all the rest."""
FAULTY: tuple[tuple[type, str], ...] = (
    (AccountService, "login"),
    (AccountService, "create_api_key"),
    (AccountService, "change_password"),
    (ConversationService, "create"),
    (ConversationService, "rename"),
)
ALWAYS_FAULTY: tuple[tuple[type, str], ...] = ((ReplyStream, "follow"), (Prompter, "prompt"))


def fail(name: str, given: object) -> NoReturn:
    try:
        raise ValueError(f"it was {given!r}")
    except ValueError as error:
        raise RuntimeError(f"{name} cannot cope with {given!r}") from error


def make_faulty(owner: type, name: str, *, always: bool) -> None:
    sound = getattr(owner, name)

    async def faulty(self: object, *arguments: Any, **named: Any) -> Any:
        if always or CRASH_ON in repr((arguments, named)):
            fail(name, (arguments, named))
        return await sound(self, *arguments, **named)

    setattr(owner, name, faulty)


def main() -> None:
    for owner, name in FAULTY:
        make_faulty(owner, name, always=False)
    for owner, name in ALWAYS_FAULTY:
        make_faulty(owner, name, always=True)
    cli.app()


if __name__ == "__main__":
    main()
