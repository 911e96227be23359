"""Accounts: registering, signing in and out, passwords, sessions and API keys.

In cookie mode the refresh token is in a cookie that scripts cannot read, and in no answer: that needs a plain HTTP
answer, as sockets and streams set no cookies.
"""

from datetime import datetime

import strawberry
from starlette.websockets import WebSocket

from domain.account_service import SignedIn
from domain.accounts import AuthMethod, Identity
from domain.errors import AccessDenied, DomainError, ErrorCode
from graph.context import Caller, Context, Info
from graph.conversations import DeletePayload, MutationPayload
from graph.errors import user_error
from graph.viewer import ApiKey, Viewer

COOKIE = "tertulia_refresh"
COOKIE_PATH = "/graphql"


@strawberry.input
class RegisterInput:
    email: str
    password: str
    display_name: str | None = None


@strawberry.input
class LoginInput:
    email: str
    password: str


@strawberry.input
class RefreshSessionInput:
    refresh_token: str | None = strawberry.field(default=None, description="In cookie mode the cookie has it.")


@strawberry.input
class LogoutInput:
    refresh_token: str | None = strawberry.field(
        default=None, description="Of the session to end; without it that of the access token or the cookie."
    )
    everywhere: bool | None = strawberry.field(default=False, description="End every session of the user.")


@strawberry.input
class ChangePasswordInput:
    current_password: str
    new_password: str


@strawberry.input
class RevokeSessionInput:
    session_id: strawberry.ID


@strawberry.input
class DeleteAccountInput:
    password: str


@strawberry.input
class CreateApiKeyInput:
    name: str
    expires_at: datetime | None = None


@strawberry.input
class RevokeApiKeyInput:
    api_key_id: strawberry.ID


@strawberry.type
class AuthPayload(MutationPayload):
    viewer: Viewer | None = None
    access_token: str | None = None
    access_token_expires_at: datetime | None = None
    refresh_token: str | None = strawberry.field(default=None, description="Null in cookie mode.")


@strawberry.type
class LogoutPayload(MutationPayload):
    pass


@strawberry.type
class CreateApiKeyPayload(MutationPayload):
    api_key: ApiKey | None = None
    secret: str | None = strawberry.field(default=None, description="The key. Shown this once.")


@strawberry.type
class AccountMutation:
    @strawberry.mutation(description="Makes a user and signs them in, where registration is open.")
    async def register(self, info: Info, input: RegisterInput) -> AuthPayload:
        context = info.context
        try:
            _check_cookies(context)
            signed_in = await context.services.accounts.register(
                input.email, input.password, input.display_name, context.caller.client
            )
        except DomainError as error:
            return AuthPayload(errors=[user_error(error)])
        return _signed_in(context, signed_in)

    @strawberry.mutation(description="Begins a session. At most 10 tries per account in 15 minutes.")
    async def login(self, info: Info, input: LoginInput) -> AuthPayload:
        context = info.context
        try:
            _check_cookies(context)
            signed_in = await context.services.accounts.login(input.email, input.password, context.caller.client)
        except DomainError as error:
            return AuthPayload(errors=[user_error(error)])
        return _signed_in(context, signed_in)

    @strawberry.mutation(
        description="A new pair of tokens. A refresh token serves once; using it again ends the session, but for the "
        "first 10 seconds, in which another tab may do the same."
    )
    async def refresh_session(self, info: Info, input: RefreshSessionInput) -> AuthPayload:
        context = info.context
        try:
            _check_cookies(context)
            token = input.refresh_token or _cookie(context) or ""
            signed_in = await context.services.accounts.refresh(token, context.caller.client)
        except DomainError as error:
            return AuthPayload(errors=[user_error(error)])
        return _signed_in(context, signed_in)

    @strawberry.mutation(description="Ends a session, or all of the user. Its sockets and streams close soon after.")
    async def logout(self, info: Info, input: LogoutInput) -> LogoutPayload:
        context = info.context
        token = input.refresh_token or _cookie(context)
        try:
            nothing_to_check = token is not None or context.caller.stranger
            identity = context.caller.identity if nothing_to_check else context.identity
            await context.services.accounts.logout(identity, token, everywhere=bool(input.everywhere))
        except DomainError as error:
            return LogoutPayload(errors=[user_error(error)])
        if _uses_cookies(context) and context.response is not None:
            context.response.delete_cookie(COOKIE, COOKIE_PATH, secure=True, httponly=True, samesite="strict")
        return LogoutPayload(errors=[])

    @strawberry.mutation(description="Ends every session and begins a new one. API keys stay.")
    async def change_password(self, info: Info, input: ChangePasswordInput) -> AuthPayload:
        context = info.context
        try:
            _check_cookies(context)
            signed_in = await context.services.accounts.change_password(
                context.identity, input.current_password, input.new_password, context.caller.client
            )
        except DomainError as error:
            return AuthPayload(errors=[user_error(error)])
        return _signed_in(context, signed_in)

    @strawberry.mutation
    async def revoke_session(self, info: Info, input: RevokeSessionInput) -> DeletePayload:
        try:
            await info.context.services.accounts.revoke_session(info.context.identity, input.session_id)
        except DomainError as error:
            return DeletePayload(errors=[user_error(error)])
        return DeletePayload(deleted_id=input.session_id, errors=[])

    @strawberry.mutation(description="Removes the viewer with all their conversations. This cannot be undone.")
    async def delete_account(self, info: Info, input: DeleteAccountInput) -> DeletePayload:
        context = info.context
        try:
            await context.services.accounts.delete_account(context.identity, input.password, context.caller.client)
        except DomainError as error:
            return DeletePayload(errors=[user_error(error)])
        return DeletePayload(deleted_id=strawberry.ID(context.user_id), errors=[])

    @strawberry.mutation(description="Makes a key for machines: it acts as the viewer, but cannot manage the account.")
    async def create_api_key(self, info: Info, input: CreateApiKeyInput) -> CreateApiKeyPayload:
        try:
            key, secret = await info.context.services.accounts.create_api_key(
                info.context.identity, input.name, input.expires_at
            )
        except DomainError as error:
            return CreateApiKeyPayload(errors=[user_error(error)])
        return CreateApiKeyPayload(api_key=ApiKey.of(key), secret=secret, errors=[])

    @strawberry.mutation
    async def revoke_api_key(self, info: Info, input: RevokeApiKeyInput) -> DeletePayload:
        try:
            await info.context.services.accounts.revoke_api_key(info.context.identity, input.api_key_id)
        except DomainError as error:
            return DeletePayload(errors=[user_error(error)])
        return DeletePayload(deleted_id=input.api_key_id, errors=[])


def _signed_in(context: Context, signed_in: SignedIn) -> AuthPayload:
    """From here on the operation is the user's own."""
    user, cookies = signed_in.user, _uses_cookies(context)
    identity = Identity(user.id, AuthMethod.PASSWORD, signed_in.session_id, signed_in.access_expires_at)
    context.caller = Caller(identity, context.caller.client)
    if cookies:
        assert context.response is not None, "checked by _check_cookies"
        context.response.set_cookie(
            COOKIE,
            signed_in.refresh_token,
            expires=signed_in.refresh_expires_at,
            path=COOKIE_PATH,
            secure=True,
            httponly=True,
            samesite="strict",
        )
    return AuthPayload(
        viewer=Viewer.of(user),
        access_token=signed_in.access_token,
        access_token_expires_at=signed_in.access_expires_at,
        refresh_token=None if cookies else signed_in.refresh_token,
        errors=[],
    )


def _uses_cookies(context: Context) -> bool:
    return context.services.facts.refresh_cookie


def _check_cookies(context: Context) -> None:
    """Before anything is done: elsewhere the token could only be in the answer, where scripts could read it, or would
    be lost, and a cookie that was used without being replaced looks stolen the next time."""
    streams = context.response is None or isinstance(context.request, WebSocket)
    if _uses_cookies(context) and streams:
        raise AccessDenied(ErrorCode.FORBIDDEN, "This needs a plain HTTP answer: sockets and streams set no cookie.")


def _cookie(context: Context) -> str | None:
    return context.request.cookies.get(COOKIE) if _uses_cookies(context) and context.request is not None else None
