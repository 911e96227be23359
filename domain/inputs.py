"""What callers may ask for, and the rules it must keep. Every broken rule is an InvalidInput that says where.

Bounds on sampling parameters are the OpenAI API's own. Nothing here looks anything up.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import MAXYEAR
from enum import StrEnum

from domain.conversations import GenerationSettings, ModelParams, Role, SeedMessage
from domain.errors import InvalidInput
from domain.storable import INTEGERS, MAX_DEPTH, check_text
from domain.tool_calls import ToolDecision
from domain.tools import MAX_TOOLS, NAME

MAX_TITLE = 200
MAX_KEY = 255
MAX_STOPS = 4
MAX_HISTORY = 2_000
MAX_METADATA = 16_384
MAX_ARGUMENTS = 65_536
MAX_COMMENT = 2_000


@dataclass(frozen=True, slots=True)
class CreateConversation:
    title: str | None = None
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    history: tuple[SeedMessage, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    idempotency_key: str | None = None


class OnBusy(StrEnum):
    """What becomes of a message whose path has a reply that is queued or streaming.

    QUEUE: its reply waits. REJECT: it is refused. INTERRUPT: those replies are stopped, with their text, for it.
    """

    QUEUE = "QUEUE"
    REJECT = "REJECT"
    INTERRUPT = "INTERRUPT"


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Without `conversation_id` a new conversation begins, with `history` as what was said before."""

    text: str
    conversation_id: str | None = None
    parent_id: str | None = None
    history: tuple[SeedMessage, ...] = ()
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    on_busy: OnBusy = OnBusy.QUEUE
    metadata: Mapping[str, object] = field(default_factory=dict)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class EditMessage:
    message_id: str
    text: str
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class RegenerateReply:
    reply_id: str
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    instruction: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class ContinueReply:
    reply_id: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class ResolveToolCall:
    """`arguments` are what the tool is to be given instead of what the model wrote.

    With `remember` the tool's later calls in this conversation need no approval.
    """

    tool_call_id: str
    decision: ToolDecision
    comment: str | None = None
    arguments: Mapping[str, object] | None = None
    remember: bool = False


Command = CreateConversation | SendMessage | EditMessage | RegenerateReply | ContinueReply


def fingerprint(command: Command) -> str:
    """The same for equal content, whatever the key."""
    content = asdict(command)
    del content["idempotency_key"]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


class Rules:
    """The checks, with the limits that an operator may set (in characters)."""

    def __init__(self, max_message_characters: int) -> None:
        self.max_message_characters = max_message_characters

    def check(self, command: Command) -> None:
        match command:
            case CreateConversation():
                self._title(command.title)
                self._history(command.history)
                self._metadata(command.metadata)
            case SendMessage():
                self.text(command.text, "text")
                self._new_or_existing(command)
                self._history(command.history)
                self._metadata(command.metadata)
            case EditMessage():
                self.text(command.text, "text")
            case RegenerateReply() if command.instruction is not None:
                self.text(command.instruction, "instruction")
        if not isinstance(command, ContinueReply):
            self._settings(command.settings)
        self._key(command.idempotency_key)

    def text(self, text: str, *path: str) -> None:
        if not text.strip():
            raise InvalidInput("The text is empty.", *path)
        if len(text) > self.max_message_characters:
            raise InvalidInput(
                f"The text has {len(text)} characters; at most {self.max_message_characters} are allowed.", *path
            )
        check_text(text, *path)

    def title(self, title: str) -> None:
        if not title.strip():
            raise InvalidInput("The title is empty.", "title")
        self._title(title)

    def _title(self, title: str | None) -> None:
        if title is None:
            return
        if len(title) > MAX_TITLE:
            raise InvalidInput(f"The title has {len(title)} characters; at most {MAX_TITLE} are allowed.", "title")
        check_text(title, "title")

    def _new_or_existing(self, command: SendMessage) -> None:
        if command.conversation_id is None and command.parent_id is not None:
            raise InvalidInput("`parentId` needs the `conversationId` that it belongs to.", "parentId")
        if command.conversation_id is not None and command.history:
            raise InvalidInput("`history` can only begin a new conversation; leave `conversationId` out.", "history")

    def _history(self, history: tuple[SeedMessage, ...]) -> None:
        if len(history) > MAX_HISTORY:
            raise InvalidInput(f"The history has more than {MAX_HISTORY} messages.", "history")
        if sum(seed.role is Role.SYSTEM for seed in history) > 1:
            raise InvalidInput("The history has more than one system message; join them into one.", "history")
        for index, seed in enumerate(history):
            if not seed.texts:
                raise InvalidInput("Give `text` or `parts`.", "history", str(index))
            for text in seed.texts:
                self.text(text, "history", str(index))
            if seed.created_at is not None and not 1 < seed.created_at.year < MAXYEAR:
                raise InvalidInput("`createdAt` is out of range.", "history", str(index))

    def _settings(self, settings: GenerationSettings) -> None:
        if settings.system_prompt:
            self.text(settings.system_prompt, "settings", "systemPrompt")
        _params(settings.params)
        _tools(settings.tools or ())

    def _metadata(self, metadata: Mapping[str, object]) -> None:
        _json(metadata, MAX_METADATA, "The metadata is", "metadata")

    def decision(self, command: ResolveToolCall) -> None:
        """Whether the arguments fit their tool is not known here."""
        if command.decision is ToolDecision.DENY:
            if command.arguments is not None:
                raise InvalidInput("A call that is denied takes no arguments.", "arguments")
            if command.remember:
                raise InvalidInput("Only an approval can be remembered.", "remember")
        if command.comment is not None:
            if len(command.comment) > MAX_COMMENT:
                length = len(command.comment)
                raise InvalidInput(
                    f"The comment has {length} characters; at most {MAX_COMMENT} are allowed.", "comment"
                )
            check_text(command.comment, "comment")
        if command.arguments is not None:
            _json(command.arguments, MAX_ARGUMENTS, "The arguments are", "arguments")

    def _key(self, key: str | None) -> None:
        if key is None:
            return
        if not 1 <= len(key) <= MAX_KEY:
            raise InvalidInput(f"An idempotency key has 1 to {MAX_KEY} characters.", "idempotencyKey")
        check_text(key, "idempotencyKey")


def _json(value: Mapping[str, object], most: int, it_is: str, field: str) -> None:
    """Check that an object can be stored and written out again, in at most so many bytes."""
    for inner in _values_in(value, it_is, field):
        if isinstance(inner, str):
            check_text(inner, field)
        elif isinstance(inner, int) and inner not in INTEGERS:
            raise InvalidInput(f"{it_is} not storable: an integer has more than 64 bits.", field)
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise InvalidInput(f"{it_is} not storable as JSON.", field) from error
    if size > most:
        raise InvalidInput(f"{it_is} larger than {most} bytes.", field)


def _values_in(value: Mapping[str, object], it_is: str, field: str) -> Iterator[object]:
    """Every value in it, and names. Raises InvalidInput when it is nested too deeply to be written out again."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        yield from level
        inner = [child for value in level if isinstance(value, Mapping) for pair in value.items() for child in pair]
        level = inner + [child for value in level if isinstance(value, list) for child in value]
        if not level:
            return
    raise InvalidInput(f"{it_is} nested more than {MAX_DEPTH} levels deep.", field)


def _tools(names: tuple[str, ...]) -> None:
    path = ("settings", "tools")
    if len(names) > MAX_TOOLS:
        raise InvalidInput(f"`tools` names more than {MAX_TOOLS} tools.", *path)
    if len(set(names)) < len(names):
        raise InvalidInput("`tools` names a tool twice.", *path)
    if not all(re.fullmatch(NAME, name) for name in names):
        raise InvalidInput("A tool's name has 1 to 64 letters, digits, underscores and hyphens.", *path)


def _params(params: ModelParams) -> None:
    path = ("settings", "params")
    if params.temperature is not None and not 0 <= params.temperature <= 2:
        raise InvalidInput("`temperature` must be between 0 and 2.", *path, "temperature")
    if params.top_p is not None and not 0 < params.top_p <= 1:
        raise InvalidInput("`topP` must be above 0 and at most 1.", *path, "topP")
    if params.max_tokens is not None and params.max_tokens < 1:
        raise InvalidInput("`maxTokens` must be at least 1.", *path, "maxTokens")
    if params.stop is not None and not (len(params.stop) <= MAX_STOPS and all(params.stop)):
        raise InvalidInput(f"`stop` takes at most {MAX_STOPS} strings, none empty.", *path, "stop")
    for text in params.stop or ():
        check_text(text, *path, "stop")
