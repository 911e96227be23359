"""Documents and bodies that are cheap to send and made to be dear to serve, each with what its sender must be told.

Knows nothing of how they are sent.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BODY = 262_144
TALK = "{ conversations(first: $n) { nodes { messages(first: $n) { nodes { id } } } } }"
STOPS = "mutation ($stop: [String!]) { createConversation(input: {settings: {params: {stop: $stop}}}) { replayed } }"
HISTORY = "mutation ($h: [SeedMessageInput!]) { createConversation(input: {history: $h}) { errors { message } } }"


@dataclass(frozen=True)
class Abuse:
    """`says` is part of the first message. `code` is None where the parser or the schema refuses."""

    query: str
    says: str
    code: str | None = "QUERY_TOO_COMPLEX"
    variables: dict[str, Any] = field(default_factory=dict)

    def body(self, number: int = 0) -> bytes:
        """Every number makes a document of its own, so that no cache helps."""
        return json.dumps({"query": f"{self.query}#{number}", "variables": self.variables}).encode()


@dataclass(frozen=True)
class Body:
    """What is refused before there is a document."""

    text: str
    says: str
    code: None = None

    def body(self, number: int = 0) -> bytes:
        return self.text.encode()


def many(count: int, make: Callable[[int], str]) -> str:
    return " ".join(map(make, range(count)))


def nested(outer: str, levels: int, inner: str = "", close: str = "}") -> str:
    return outer * levels + inner + close * levels


def chained(count: int, around: Callable[[str], str], last: str, on: str = "Query") -> str:
    """Fragments F0 to Fn, each with something around spreads of the next."""
    links = many(count, lambda i: f"fragment F{i} on {on} {{ {around(f'...F{i + 1}')} }}")
    return f"{links} fragment F{count} on {on} {{ {last} }}"


def filled(filler: str, characters: int) -> str:
    return "{ __typename " + filler * (characters // len(filler)) + "\n}"


def written(argument: str) -> str:
    return f"mutation {{ createConversation(input: {{{argument}}}) {{ errors {{ message }} }} }}"


LENGTH = {
    "1,001 tokens": Abuse("{" + "a " * 999 + "}", "more than 1000 tokens"),
    "2,000 comments": Abuse(filled("#\n", 4_000), "more than 1000 tokens"),
    "256 KiB of blanks": Abuse(filled(" ", BODY - 200), "too long in characters"),
    "256 KiB of commas": Abuse(filled(",", BODY - 200), "too long in characters"),
    "256 KiB of one comment": Abuse(filled("#" + "x" * (BODY - 300), BODY - 200), "too long in characters"),
    "256 KiB of one string": Abuse(f'{{ node(id: "{"x" * (BODY - 200)}") {{ id }} }}', "too long in characters"),
    "an integer of 200,000 digits": Abuse(f"{{ node(id: {'1' * 200_000}) {{ id }} }}", "too long in characters"),
    "an integer of 130,000 digits": Abuse(
        f"{{ conversations(first: {'1' * 130_000}) {{ totalCount }} }}", "Int", code=None
    ),
    "a float of 200,000 digits": Abuse(
        written(f"settings: {{params: {{temperature: 0.{'1' * 200_000}}}}}"), "too long in characters"
    ),
    "a name of 130,000 letters": Abuse(f"{{ {'a' * 130_000} }}", "Cannot query field", code=None),
    "a string without end": Abuse('{ node(id: "' + "x" * 130_000, "Unterminated string", code=None),
    "lines before a mistake": Abuse("{" + "\n" * 120_000 + "(", "Syntax Error", code=None),
    "half a surrogate pair": Abuse('{ node(id: "\\uD800") { id } }', "Invalid Unicode escape", code=None),
    "a character beyond Unicode": Abuse('{ node(id: "\\u{110000}") { id } }', "Invalid Unicode escape", code=None),
}

DEPTH = {
    "depth 11": Abuse('{ message(id: "a") ' + nested("{ parent ", 9, "{ id }") + " }", "depth"),
    "depth 11 by fragments": Abuse(
        '{ message(id: "a") { ...F0 } } ' + chained(9, lambda next_: f"parent {{ {next_} }}", "id", "Message"), "depth"
    ),
    "depth 11 by inline fragments": Abuse(
        '{ message(id: "a") ' + nested("{ ... { parent ", 9, "{ id }", "} }") + "}", "depth"
    ),
    "braces without end": Abuse("{ a" * 480, "nested too deeply"),
    "lists in lists as an argument": Abuse(
        f"{{ node(id: {nested('[', 480, close=']')}) {{ id }} }}", "nested too deeply"
    ),
    "objects in objects as an argument": Abuse(written(f"metadata: {nested('{a:', 240, '1')}"), "nested too deeply"),
    "lists in lists, 180 deep": Abuse(written(f"title: {nested('[', 180, close=']')}"), "String cannot", code=None),
    "a fragment in itself": Abuse("{ ...F } fragment F on Query { ...F }", "in a circle"),
    "fragments in a circle": Abuse(
        "{ ...A } fragment A on Query { ...B } fragment B on Query { ...C } fragment C on Query { ...A }", "in a circle"
    ),
    "18 fragments, each in each": Abuse(
        "{ ...F0 } " + many(18, lambda i: f"fragment F{i} on Query {{ {many(18, lambda j: f'...F{j}')} }}"),
        "in a circle",
    ),
    "two fragments of one name": Abuse(
        "{ ...F } " + "fragment F on Query { __typename } " * 2, "only one fragment", code=None
    ),
}

REPETITION = {
    "16 aliases": Abuse("{" + many(16, lambda i: f"a{i}: __typename") + "}", "too many aliases"),
    "16 aliases of one fragment": Abuse(
        '{ message(id: "a") { a: parent { ...F } b: parent { ...F } c: parent { ...F } } }'
        " fragment F on Message { d: id e: id f: id g: id h: id }",
        "too many aliases",
    ),
    "aliases that double by fragments": Abuse(
        "{ ...F0 } " + chained(60, lambda next_: f"{next_} {next_}", "a: __typename"), "too many aliases"
    ),
    "aliases in a fragment that nobody uses": Abuse(
        "{ __typename } fragment F on Query {" + many(16, lambda i: f"a{i}: __typename") + "}", "too many aliases"
    ),
    "aliases in another operation": Abuse(
        "query A { __typename } query B {" + many(16, lambda i: f"a{i}: __typename") + "}", "too many aliases"
    ),
    "21 directives": Abuse("{" + many(21, lambda i: f"a{i} @skip(if: true)") + "}", "too many directives"),
    "490 directives on one field": Abuse("{ __typename " + "@a" * 490 + "}", "too many directives"),
    "21 directives on variables": Abuse(
        "query (" + many(21, lambda i: f"$a{i}: Int @a") + ") { __typename }", "too many directives"
    ),
    "directives that double by fragments": Abuse(
        "{ ...F0 } " + chained(60, lambda next_: f"{next_} {next_}", "__typename @skip(if: true)"),
        "too many directives",
    ),
    "10,000 directives": Abuse("{ __typename " + "@a " * 10_000 + "}", "more than 1000 tokens"),
    "one field 990 times": Abuse("{ server {" + "version " * 990 + "} }", "repeats too many"),
    "one object 240 times": Abuse("{" + "server { version } " * 190 + "}", "repeats too many"),
    "one field with other arguments": Abuse(
        "{" + many(90, lambda i: f'node(id: "{i}") {{ id }}') + "}", "repeats too many"
    ),
    "one field in inline fragments": Abuse("{" + "... { __typename } " * 190 + "}", "repeats too many"),
    "one field in many fragments": Abuse(
        "{" + many(80, lambda i: f"...F{i}") + "}" + many(80, lambda i: f"fragment F{i} on Query {{ __typename }}"),
        "repeats too many",
    ),
    "repetition in repetition": Abuse(
        '{ message(id: "a") {' + "parent { parent { id } parent { id } } " * 60 + "} }",
        "repeats too many",
    ),
    "190 operations": Abuse(many(190, lambda i: f"query Q{i} {{ __typename }}"), "operation name", code=None),
    "900 unknown fields": Abuse("{" + many(900, lambda i: f"conversation{i}") + "}", "Cannot query field", code=None),
    "240 unused variables": Abuse(
        "query (" + many(240, lambda i: f"$a{i}: Int") + ") { __typename }", "never used", code=None
    ),
}

SENSITIVE = {
    "two logins by alias": Abuse(
        "mutation { "
        + many(2, lambda i: f'a{i}: login(input: {{email: "a", password: "{i}"}}) {{ accessToken }}')
        + " }",
        "too many of the fields",
    ),
    "two messages by alias": Abuse(
        "mutation { " + many(2, lambda i: f'a{i}: sendMessage(input: {{text: "a"}}) {{ replayed }}') + " }",
        "too many of the fields",
    ),
    "two messages by fragments": Abuse(
        "mutation { ...A ... { ...B } } "
        'fragment A on Mutation { sendMessage(input: {text: "a"}) { replayed } } '
        'fragment B on Mutation { b: sendMessage(input: {text: "b"}) { replayed } }',
        "too many of the fields",
    ),
    "a login and a message": Abuse(
        'mutation { sendMessage(input: {text: "a"}) { replayed } login(input: {}) { accessToken } }',
        "too many of the fields",
    ),
}

COST = {
    "pages in pages": Abuse(TALK.replace("$n", "100"), "costs too much"),
    "pages in pages by a variable": Abuse(f"query ($n: Int) {TALK}", "costs too much", variables={"n": 100}),
    "pages in pages by a variable with a fraction": Abuse(
        f"query ($n: Int) {TALK}", "costs too much", variables={"n": 100.0}
    ),
    "pages in pages by a default": Abuse(f"query ($n: Int = 100) {TALK}", "costs too much"),
    "every branch of every message": Abuse(
        "{ conversations(first: 100) { nodes { messages(first: 100) { nodes { siblings { children { id } } } } } } }",
        "costs too much",
    ),
    "branches of branches": Abuse(
        '{ message(id: "a") { siblings { children { siblings { id } } } } }', "costs too much"
    ),
    "branches that double by fragments": Abuse(
        '{ message(id: "a") { ...F0 } } '
        + chained(
            7, lambda next_: f"parent {{ {next_} }} children {{ {next_} }} siblings {{ {next_} }}", "id", "Message"
        ),
        "costs too much",
    ),
    "counts of a hundred viewers": Abuse(
        "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Viewer {"
        + many(15, lambda i: f"a{i}: conversations(first: 1) {{ totalCount }}")
        + "} } }",
        "costs too much",
        variables={"ids": ["a"] * 100},
    ),
    "a thousand paths": Abuse(
        "{ conversations(first: 100) { nodes {"
        + many(10, lambda i: f"a{i}: messages(first: 1) {{ nodes {{ id }} }}")
        + "} } }",
        "costs too much",
    ),
    "a page of messages in every event": Abuse(
        "subscription { conversationEvents { ... on MessageAdded { conversation {"
        " messages(first: 100) { nodes { id parent { id } conversation { id } children { id } } }"
        " } } } }",
        "costs too much",
    ),
    "sessions of a hundred viewers": Abuse(
        "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Viewer {"
        + many(15, lambda i: f"a{i}: sessions {{ id }}")
        + "} } }",
        "costs too much",
        variables={"ids": ["a"] * 100},
    ),
    "pages in every event": Abuse(
        "subscription { conversationEvents { cursor ... on ConversationCreated { conversation {"
        " messages(first: 100) { nodes { siblings { siblings { id } } } } } } } }",
        "costs too much",
    ),
    "messages of the conversations of all tasks": Abuse(
        "{ tasks(first: 1000) { conversation { messages(first: 1) { nodes { id } } } } }", "costs too much"
    ),
    "all tasks five times": Abuse(
        "{" + many(5, lambda i: f"a{i}: tasks(first: 1000) {{ conversation {{ id }} }}") + "}", "costs too much"
    ),
    "101 ids": Abuse("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", "list of ids", variables={"ids": ["a"] * 101}),
    "101 ids in the document": Abuse(f"{{ nodes(ids: [{'1 ' * 101}]) {{ id }} }}", "list of ids"),
    "types of fields of types": Abuse(
        "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }", "costs too much"
    ),
    "the whole schema four times": Abuse(
        "{ " + many(4, lambda i: f"a{i}: __schema {{ types {{ fields {{ args {{ type {{ ...T }} }} }} }} }}") + " }"
        " fragment T on __Type { " + nested("ofType { ", 9, "name ") + " }",
        "costs too much",
    ),
}

VARIABLES = {
    "120,000 wrong values": Abuse(STOPS, "too many values", variables={"stop": [1] * 80_000}),
    "60,000 right values": Abuse(STOPS, "too many values", variables={"stop": ["a"] * 50_000}),
    "80,000 empty objects": Abuse(HISTORY, "too many values", variables={"h": [{}] * 60_000}),
    "12,000 wrong values": Abuse(STOPS, "String cannot", code=None, variables={"stop": [1] * 12_000}),
    "800 levels of lists": Abuse(
        STOPS, "String cannot", code=None, variables={"stop": json.loads("[" * 800 + "]" * 800)}
    ),
}

BODIES = {
    "a batch": Body(json.dumps([{"query": "{ __typename }"}] * 100), "Batches are not supported"),
    "120,000 levels of lists": Body('{"query": "{ __typename }", "variables": ' + "[" * 120_000, "not valid JSON"),
    "2,000 levels of objects": Body(
        '{"query": "{ __typename }", "variables": ' + nested('{"a":', 2_000, "1") + "}", "depth limit"
    ),
    "an integer of 200,000 digits": Body(
        '{"query": "{ __typename }", "variables": {"a": ' + "1" * 200_000 + "}}", "not valid JSON"
    ),
    "a surrogate alone": Body('{"query": "{ node(id: \\"\\ud800\\") { id } }"}', "not valid JSON"),
}

ABUSES: dict[str, Abuse | Body] = {
    **LENGTH,
    **DEPTH,
    **REPETITION,
    **SENSITIVE,
    **COST,
    **VARIABLES,
    **{f"body: {k}": v for k, v in BODIES.items()},
}


DEAR: dict[str, Abuse] = {
    f"spreads that double, {levels} deep, {where}": Abuse(
        f"{{ {outer} }} " + chained(levels, lambda next_: f"{next_} {next_}", leaf, on), "", code=None
    )
    for levels in (16, 48)
    for where, outer, leaf, on in (
        ("at the top", "...F0", "server { version }", "Query"),
        ("below a field", "server { ...F0 }", "version", "ServerInfo"),
        ("of what is private", "...F0", "models { name }", "Query"),
    )
}
"""Within every limit, so it must be cheap to answer, or to refuse to strangers."""
