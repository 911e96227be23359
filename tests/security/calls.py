"""How each field of the schema is called with input that is valid, and where ids are in that input.

The places of ids are found by walking the schema, so that none can be forgotten; how a field is called is written down
here, field by field, and a test fails for a field that is not. Knows nothing of what is tried with the ids.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLInputObjectType, GraphQLInputType, GraphQLObjectType, GraphQLSchema, get_named_type

from tests.security.people import FEED, LOGIN, LOGOUT, NEW_KEY, REFRESH, REGISTER, STREAM

Path = tuple[str, ...]


@dataclass(frozen=True)
class World:
    """One id of each kind of what a person owns, and the tokens that some calls need."""

    conversation: str
    message: str
    reply: str
    settled: str
    session: str
    api_key: str
    user: str
    email: str
    refresh: str
    password: str
    tool_call: str
    """It awaits approval."""

    def kinds(self) -> dict[str, str]:
        names = ("conversation", "message", "reply", "settled", "session", "api_key", "user", "tool_call")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Call:
    """A document, its valid variables, and of which kind the id in each place is."""

    document: str
    variables: Callable[[World], dict[str, Any]] = lambda _own: {}
    kinds: dict[Path, str] | None = None


def _mutation(name: str, answer: str, kinds: dict[Path, str], **more: Any) -> Call:
    """One whose input is ids of the caller's own and `more`."""
    type_name = name[0].upper() + name[1:] + "Input"
    document = f"mutation ($input: {type_name}!) {{ {name}(input: $input) {{ {answer} {ERRORS} }} }}"

    def variables(own: World) -> dict[str, Any]:
        return {"input": {path[1]: getattr(own, kind) for path, kind in kinds.items()} | more}

    return Call(document, variables, kinds)


ERRORS = "errors { __typename code message path ... on NotFoundError { id } }"
CONVERSATION = (
    "id title settings { systemPrompt tools { name } toolChoice } metadata messages { nodes { id text } } leaf { id }"
)
TOOL_CALL = "id name title status arguments argumentsText result error approval { comment }"
MESSAGE = "id text role parent { id } siblings { id } children { id } conversation { id title }"
NODE = (
    f"__typename id ... on Conversation {{ {CONVERSATION} }} ... on Message {{ {MESSAGE} }} ... on Viewer {{ email }}"
)
SENT = f"conversation {{ {CONVERSATION} }} reply {{ {MESSAGE} }}"
PEOPLE = "viewer { id email conversations { nodes { id title } } sessions { id } apiKeys { id } }"

CALLS: dict[str, Call] = {
    "Query.conversations": Call(f"{{ conversations {{ totalCount nodes {{ {CONVERSATION} }} }} }}"),
    "Query.conversation": Call(
        f"query ($id: ID!) {{ conversation(id: $id) {{ {CONVERSATION} }} }}",
        lambda own: {"id": own.conversation},
        {("id",): "conversation"},
    ),
    "Query.message": Call(
        f"query ($id: ID!) {{ message(id: $id) {{ {MESSAGE} }} }}",
        lambda own: {"id": own.message},
        {("id",): "message"},
    ),
    "Query.models": Call("{ models { name } }"),
    "Query.tools": Call("{ tools { name description parameters } }"),
    "Query.tasks": Call("{ tasks { id title description conversation { id title } } }"),
    "Query.node": Call(
        f"query ($id: ID!) {{ node(id: $id) {{ {NODE} }} }}",
        lambda own: {"id": own.conversation},
        {("id",): "conversation"},
    ),
    "Query.nodes": Call(
        f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {{ {NODE} }} }}",
        lambda own: {"ids": [own.message]},
        {("ids",): "message"},
    ),
    "Query.viewer": Call(f"{{ {PEOPLE} }}"),
    "Query.server": Call("{ server { version } }"),
    "Conversation.messages": Call(
        "query ($own: ID!, $leafId: ID) { conversation(id: $own) { messages(leafId: $leafId) { nodes { id text } } } }",
        lambda own: {"own": own.conversation, "leafId": own.message},
        {("leafId",): "message"},
    ),
    "Mutation.sendMessage": _mutation(
        "sendMessage",
        f"message {{ id }} {SENT}",
        {("input", "conversationId"): "conversation", ("input", "parentId"): "settled"},
        text="And now?",
    ),
    "Mutation.editMessage": _mutation(
        "editMessage", f"message {{ id }} {SENT}", {("input", "messageId"): "message"}, text="Or rather?"
    ),
    "Mutation.regenerateReply": _mutation("regenerateReply", SENT, {("input", "replyId"): "settled"}),
    "Mutation.continueReply": _mutation("continueReply", SENT, {("input", "replyId"): "settled"}),
    "Mutation.stopReply": _mutation("stopReply", f"reply {{ {MESSAGE} }}", {("input", "replyId"): "reply"}),
    "Mutation.resolveToolCall": _mutation(
        "resolveToolCall",
        f"toolCall {{ {TOOL_CALL} }} reply {{ {MESSAGE} }}",
        {("input", "toolCallId"): "tool_call"},
        decision="APPROVE",
        comment="Do it.",
        arguments={"to": "Grace", "text": "Come."},
        remember=True,
    ),
    "Mutation.createConversation": _mutation("createConversation", f"conversation {{ {CONVERSATION} }}", {}),
    "Mutation.renameConversation": _mutation(
        "renameConversation",
        f"conversation {{ {CONVERSATION} }}",
        {("input", "conversationId"): "conversation"},
        title="Mine",
    ),
    "Mutation.deleteConversation": _mutation(
        "deleteConversation", "deletedId", {("input", "conversationId"): "conversation"}
    ),
    "Mutation.register": Call(REGISTER, lambda own: {"input": {"email": f"x{own.email}", "password": own.password}}),
    "Mutation.login": Call(LOGIN, lambda own: {"input": {"email": own.email, "password": own.password}}),
    "Mutation.refreshSession": Call(REFRESH, lambda own: {"input": {"refreshToken": own.refresh}}),
    "Mutation.logout": Call(LOGOUT, lambda _own: {"input": {"everywhere": True}}),
    "Mutation.changePassword": Call(
        f"mutation ($input: ChangePasswordInput!) {{ changePassword(input: $input) {{ {PEOPLE} {ERRORS} }} }}",
        lambda own: {"input": {"currentPassword": own.password, "newPassword": "battery staple"}},
    ),
    "Mutation.revokeSession": _mutation("revokeSession", "deletedId", {("input", "sessionId"): "session"}),
    "Mutation.deleteAccount": Call(
        f"mutation ($input: DeleteAccountInput!) {{ deleteAccount(input: $input) {{ deletedId {ERRORS} }} }}",
        lambda own: {"input": {"password": own.password}},
    ),
    "Mutation.createApiKey": Call(NEW_KEY),
    "Mutation.revokeApiKey": _mutation("revokeApiKey", "deletedId", {("input", "apiKeyId"): "api_key"}),
    "Subscription.replyStream": Call(
        STREAM.replace("$id", "$replyId"), lambda own: {"replyId": own.settled}, {("replyId",): "settled"}
    ),
    "Subscription.conversationEvents": Call(
        FEED.replace("$id", "$conversationId"),
        lambda own: {"conversationId": own.conversation},
        {("conversationId",): "conversation"},
    ),
}


def places(schema: GraphQLSchema) -> dict[str, set[Path]]:
    """Of every root field, and of every other field that takes an id: where ids may be in its variables."""
    found: dict[str, set[Path]] = {}
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    for type_ in schema.type_map.values():
        if not isinstance(type_, GraphQLObjectType) or type_.name.startswith("__"):
            continue
        for name, field in type_.fields.items():
            ids = {path for argument, each in field.args.items() for path in _ids((argument,), each.type, ())}
            if ids or type_ in roots:
                found[f"{type_.name}.{name}"] = ids
    return found


def _ids(path: Path, type_: GraphQLInputType, within: tuple[str, ...]) -> Iterator[Path]:
    named = get_named_type(type_)
    if named.name == "ID":
        yield path
    elif isinstance(named, GraphQLInputObjectType) and named.name not in within:
        for name, field in named.fields.items():
            yield from _ids((*path, name), field.type, (*within, named.name))


def with_id(variables: dict[str, Any], path: Path, id_: Any) -> dict[str, Any]:
    """The variables with another id in the place; a list of ids holds that one alone."""
    first, *rest = path
    if rest:
        return variables | {first: with_id(variables[first], tuple(rest), id_)}
    return variables | {first: [id_] if isinstance(variables[first], list) else id_}
