"""Models on offer, and the settings a reply is generated with: types, inputs and their translation."""

import strawberry

from domain import models as domain
from domain.conversations import GenerationSettings as Settings
from domain.conversations import ModelParams as Params
from domain.tool_calls import ToolChoice
from graph.context import Info
from graph.tools import Tool, tools_named

strawberry.enum(domain.ModelCapability)
strawberry.enum(
    ToolChoice,
    description="AUTO: the model decides. NONE: it calls no tool. REQUIRED: it begins by calling at least one.",
)


@strawberry.type
class Model:
    name: str
    title: str
    provider: str
    context_tokens: int | None
    max_output_tokens: int | None
    capabilities: list[domain.ModelCapability]
    is_default: bool

    @classmethod
    def of(cls, value: domain.Model) -> "Model":
        return cls(
            name=value.name,
            title=value.title or value.name,
            provider=value.provider,
            context_tokens=value.context_tokens,
            max_output_tokens=value.max_output_tokens,
            capabilities=list(value.capabilities),
            is_default=value.is_default,
        )


@strawberry.type
class ModelParams:
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: list[str]
    seed: int | None

    @classmethod
    def of(cls, value: Params) -> "ModelParams":
        return cls(
            temperature=value.temperature,
            top_p=value.top_p,
            max_tokens=value.max_tokens,
            stop=list(value.stop or ()),
            seed=value.seed,
        )


@strawberry.type
class GenerationSettings:
    value: strawberry.Private[Settings]
    params: ModelParams

    @classmethod
    def of(cls, value: Settings) -> "GenerationSettings":
        return cls(value=value, params=ModelParams.of(value.params))

    @strawberry.field
    def system_prompt(self, info: Info) -> str | None:
        prompt = self.value.system_prompt
        return None if prompt is None else info.context.shown(prompt)

    @strawberry.field(description="Null when the level above decides.")
    def model(self, info: Info) -> Model | None:
        model = info.context.services.conversations.model(self.value.model)
        return None if model is None else Model.of(model)

    @strawberry.field(
        description="What the model is offered here, by the level above too; without those that are not there any more."
    )
    def tools(self, info: Info) -> list[Tool]:
        return tools_named(info, self._whole(info).tools or ())

    @strawberry.field
    def tool_choice(self, info: Info) -> ToolChoice:
        return self._whole(info).tool_choice or ToolChoice.AUTO

    def _whole(self, info: Info) -> Settings:
        return self.value.over(info.context.services.conversations.defaults)


@strawberry.input
class ModelParamsInput:
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None


@strawberry.input(description="Only what is given overrides the conversation, which overrides the server.")
class GenerationSettingsInput:
    model: str | None = None
    system_prompt: str | None = None
    params: ModelParamsInput | None = None
    tools: list[str] | None = strawberry.field(
        default=None, description="Names of those that the model is offered; none are unless they are named."
    )
    tool_choice: ToolChoice | None = None

    def to_domain(self) -> Settings:
        params = self.params or ModelParamsInput()
        return Settings(
            model=self.model,
            system_prompt=self.system_prompt,
            params=Params(
                temperature=params.temperature,
                top_p=params.top_p,
                max_tokens=params.max_tokens,
                stop=None if params.stop is None else tuple(params.stop),
                seed=params.seed,
            ),
            tools=None if self.tools is None else tuple(self.tools),
            tool_choice=self.tool_choice,
        )


def settings_from(given: GenerationSettingsInput | None) -> Settings:
    return Settings() if given is None else given.to_domain()


@strawberry.type
class ModelQuery:
    @strawberry.field(description="Models this user may choose.")
    def models(self, info: Info) -> list[Model]:
        return [Model.of(model) for model in info.context.services.conversations.models()]
