"""How many resolvers of a running server's schema were called: for those who are refused, none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from graphql import GraphQLObjectType

from graph.execution import MaskingSchema
from graph.schema import build_schema
from tertulia import main


class Resolved:
    """The names of the fields with a resolver of ours that were executed, since `forget`."""

    def __init__(self) -> None:
        self.fields: list[str] = []

    def forget(self) -> None:
        self.fields.clear()

    def noting(self, name: str, resolver: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **arguments: Any) -> Any:
            self.fields.append(name)
            return resolver(*given, **arguments)

        return noted


@contextmanager
def noted_resolvers() -> Iterator[Resolved]:
    """Every server that is made meanwhile notes its resolvers."""
    resolved = Resolved()

    def build() -> MaskingSchema:
        schema = build_schema()
        for type_ in schema._schema.type_map.values():
            if not isinstance(type_, GraphQLObjectType) or type_.name.startswith("__"):
                continue
            for name, field in type_.fields.items():
                for step in ("resolve", "subscribe"):
                    if (resolver := getattr(field, step)) is not None:
                        setattr(field, step, resolved.noting(f"{type_.name}.{name}", resolver))
        return schema

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "build_schema", build)
        yield resolved
