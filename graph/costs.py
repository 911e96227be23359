"""What an operation may cost: the objects it asks for, with page sizes as multipliers.

Compiled once for each document: to a number, or to a function of those variables that lengths come from, so that a
request whose document is known costs microseconds. The document need not be valid yet: what the schema does not know
costs nothing, and validation refuses it.
"""

from collections.abc import Callable, Mapping
from math import ceil, isfinite

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_introspection_type,
    is_list_type,
)

from domain.tasks import MAX_TASKS
from graph.conversations import CONVERSATIONS_PER_PAGE, MESSAGES_PER_PAGE
from graph.limits import fragments_in_order, refusal
from graph.pagination import MAX_PAGE_SIZE

MAX_COST = 45_000
MAX_EVENT_COST = 5_000
"""Of a subscription, whose selection is executed for every event, also for those that are told again."""
MAX_IDS = 100
OBJECT = 10
"""A Node: a conversation or a message, which is read from the database."""
INTROSPECTED = 1
"""A type, field or argument that the schema tells of itself, which is in memory."""
QUERIES = {
    "messages": 60,
    "totalCount": 30,
    "quotas": 30,
    "activeReplies": 10,
    "sessions": 100,
    "apiKeys": 100,
    "tasks": 30,
}
"""Fields that ask the database once more, wherever they are selected; `messages` walks a whole path for its page."""
OWNED = {"Session": 1, "ApiKey": 1, "Task": 1, "Tool": 1}
"""Objects that are no Nodes, but of which there may be many."""
UNPAGED = 20
"""Taken as the length of lists that have no pages, such as `siblings`."""
PAGE_SIZES = {"conversations": CONVERSATIONS_PER_PAGE, "messages": MESSAGES_PER_PAGE}
"""Where neither `first` nor `last` is given. Fields that are not listed are taken for full pages."""
LONGEST_PAGES = {"tasks": MAX_TASKS}
"""Of other fields it is MAX_PAGE_SIZE."""
LENGTHS = {"types": 100, "fields": 8, "args": 2, "inputFields": 4, "interfaces": 1, "possibleTypes": 3, "enumValues": 3}
"""Of lists in an introspection, taken from our schema; of others, 8."""

Length = int | None
"""None where nothing is said, so that a default holds."""


class Values:
    """The variables of one request, and what its fragments cost with them."""

    def __init__(self, given: Mapping[str, object], defaults: Mapping[str, Length]) -> None:
        self._given = given
        self._defaults = defaults
        self.fragments: dict[str, int] = {}

    def length(self, variable: str) -> Length:
        return _length(self._given[variable]) if variable in self._given else self._defaults.get(variable)


Varying = Callable[[Values], int]
Cost = int | Varying


class VaryingCost:
    """What one operation costs, where that depends on its variables."""

    def __init__(self, cost: Varying, operation: OperationDefinitionNode) -> None:
        self._cost = cost
        self._operation = operation.operation
        self._defaults: dict[str, Length] = {}
        for definition in operation.variable_definitions or ():
            default = definition.default_value
            self._defaults[definition.variable.name.value] = None if default is None else _literal_length(default)

    def check(self, variables: Mapping[str, object] | None) -> None:
        """Raises GraphQLError. Values of a wrong type pass: execution refuses them."""
        _check(self._cost(Values(variables or {}, self._defaults)), self._operation)


def check_costs(schema: GraphQLSchema, document: DocumentNode) -> dict[str | None, VaryingCost]:
    """Check every operation but those whose cost varies, which are returned by name. Raises GraphQLError."""
    compiler = _Compiler(schema)
    for fragment in fragments_in_order(document):
        compiler.add(fragment.name.value, fragment.selection_set, fragment.type_condition.name.value)
    varying: dict[str | None, VaryingCost] = {}
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            cost = compiler.of_selections(node.selection_set, schema.get_root_type(node.operation))
            if isinstance(cost, int):
                _check(cost, node.operation)
            else:
                varying[node.name.value if node.name else None] = VaryingCost(cost, node)
    return varying


def _check(cost: int, operation: OperationType) -> None:
    most = MAX_EVENT_COST if operation is OperationType.SUBSCRIPTION else MAX_COST
    if cost > most:
        raise refusal("operation costs too much", cost, most, " Ask for smaller pages or fewer levels.")


class _Compiler:
    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self._fragments: dict[str, Cost] = {}

    def add(self, fragment: str, selections: SelectionSetNode, condition: str) -> None:
        self._fragments[fragment] = _once(fragment, self.of_selections(selections, self._schema.get_type(condition)))

    def of_selections(self, selections: SelectionSetNode, parent: GraphQLNamedType | None) -> Cost:
        return _sum([self._of_member(node, parent) for node in selections.selections])

    def _of_member(self, node: SelectionNode, parent: GraphQLNamedType | None) -> Cost:
        if isinstance(node, FragmentSpreadNode):
            return self._fragments.get(node.name.value, 0)
        if isinstance(node, InlineFragmentNode):
            condition = node.type_condition
            inner = self._schema.get_type(condition.name.value) if condition else parent
            return self.of_selections(node.selection_set, inner)
        assert isinstance(node, FieldNode)
        if node.selection_set is None or not isinstance(parent, GraphQLObjectType | GraphQLInterfaceType):
            return QUERIES.get(node.name.value, 0)
        known = self._schema.get_field(parent, node.name.value)
        if known is None:
            return 0
        of_type = get_named_type(known.type)
        each = _sum([_of_object(of_type), self.of_selections(node.selection_set, of_type)])
        return _sum([QUERIES.get(node.name.value, 0), _product(_times(node, known, parent), each)])


def _of_object(of_type: GraphQLNamedType) -> int:
    if is_introspection_type(of_type):
        return INTROSPECTED
    interfaces = getattr(of_type, "interfaces", ())
    if of_type.name in OWNED:
        return OWNED[of_type.name]
    return OBJECT if any(each.name == "Node" for each in (of_type, *interfaces)) else 0


# ── how many ──


def _times(node: FieldNode, known: GraphQLField, parent: GraphQLNamedType) -> Cost:
    """How many of what a field selects there may be. A connection's own lists have been counted at the connection."""
    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    if "first" in known.args:
        default = known.args["first"].default_value
        size = default if isinstance(default, int) else PAGE_SIZES.get(node.name.value, MAX_PAGE_SIZE)
        most = LONGEST_PAGES.get(node.name.value, MAX_PAGE_SIZE)
        return _page([given[name] for name in ("first", "last") if name in given], size, most)
    if "ids" in known.args:
        return _ids(given.get("ids"))
    if not is_list_type(get_nullable_type(known.type)) or parent.name.endswith("Connection"):
        return 1
    return LENGTHS.get(node.name.value, 8) if is_introspection_type(parent) else UNPAGED


def _page(given: list[ValueNode], default: int, most: int) -> Cost:
    lengths = [_of_value(value) for value in given]

    def size(values: Values) -> int:
        found = [length(values) if callable(length) else length for length in lengths]
        return max((min(each, most) for each in found if each is not None), default=default)

    return size if any(callable(length) for length in lengths) else size(NOTHING)


def _ids(given: ValueNode | None) -> Cost:
    length = None if given is None else _of_value(given)

    def count(values: Values) -> int:
        found = (length(values) if callable(length) else length) or 0
        if found > MAX_IDS:
            raise refusal("list of ids is too long", found, MAX_IDS)
        return found

    return count if callable(length) else count(NOTHING)


def _of_value(node: ValueNode) -> Length | Callable[[Values], Length]:
    if isinstance(node, VariableNode):
        name = node.name.value
        return lambda values: values.length(name)
    return _literal_length(node)


def _literal_length(node: ValueNode) -> Length:
    if isinstance(node, NullValueNode):
        return None
    if isinstance(node, ListValueNode):
        return len(node.values)
    if isinstance(node, IntValueNode) and len(node.value) < 10:
        return _length(int(node.value))
    return MAX_PAGE_SIZE if isinstance(node, IntValueNode) else 1


def _length(value: object) -> Length:
    """What a value asks for. What is no number and no list is taken for a list of one, as GraphQL does.

    Where a variable is an Int, GraphQL takes 100.0 as well.
    """
    if value is None:
        return None
    if isinstance(value, list):
        return len(value)
    if isinstance(value, float):
        return max(ceil(value), 1) if isfinite(value) else MAX_PAGE_SIZE
    return max(value, 1) if isinstance(value, int) else 1


NOTHING = Values({}, {})


# ── arithmetic, at once where nothing varies ──


def _sum(costs: list[Cost]) -> Cost:
    known = sum(cost for cost in costs if isinstance(cost, int))
    varying = [cost for cost in costs if not isinstance(cost, int)]
    if not varying:
        return known
    return lambda values: known + sum(cost(values) for cost in varying)


def _product(times: Cost, each: Cost) -> Cost:
    if isinstance(times, int):
        return times * each if isinstance(each, int) else _scaled(times, each)
    if isinstance(each, int):
        return _scaled(each, times)
    return lambda values: times(values) * each(values)


def _scaled(number: int, varying: Varying) -> Cost:
    return lambda values: number * varying(values)


def _once(fragment: str, cost: Cost) -> Cost:
    """Of a fragment that is spread often, so that spreads within spreads do not multiply the work."""
    if isinstance(cost, int):
        return cost

    def remembered(values: Values) -> int:
        if fragment not in values.fragments:
            values.fragments[fragment] = cost(values)
        return values.fragments[fragment]

    return remembered
