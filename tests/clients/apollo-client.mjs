// Apollo Client 4 for Tertulia: queries and mutations over HTTP, replies over a WebSocket or over multipart HTTP.
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { SetContextLink } from '@apollo/client/link/context';
import { ErrorLink } from '@apollo/client/link/error';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { createClient } from 'graphql-ws';
import { from, mergeMap, tap, throwError } from 'rxjs';
import { REPLY_STREAM, applyEvent, nothingYet } from './reply.mjs';
import { SignedOut } from './session.mjs';

export const possibleTypes = {
  ConversationEvent: [
    'ConversationCreated',
    'ConversationDeleted',
    'ConversationUpdated',
    'MessageAdded',
    'MessageUpdated',
    'ResyncRequired',
    'ToolApprovalRequested',
  ],
  MessagePart: ['ReasoningPart', 'TextPart', 'ToolCallPart'],
  ReplyEvent: [
    'PartAdded',
    'ReplyFinished',
    'ReplyRetrying',
    'ReplySnapshot',
    'ReplyStatusChanged',
    'TextDelta',
    'ToolCallArgumentsDelta',
    'ToolCallChanged',
  ],
  UserError: [
    'AccessError',
    'ConflictError',
    'ContextTooLongError',
    'InvalidInputError',
    'NotFoundError',
    'QuotaExceededError',
    'RateLimitedError',
    'ReplyInProgressError',
    'UnavailableError',
  ],
};

// Give a socket to stream over it; without one, Apollo's HttpLink streams by multipart HTTP. Give a session (of
// session.mjs) where the server has accounts.
export function makeClient(url, socket, session) {
  const http = new HttpLink({ uri: url });
  const streams = socket ? ApolloLink.from([keepCursor, new GraphQLWsLink(socket)]) : http;
  const transport = ApolloLink.split(({ operationType }) => operationType === 'subscription', streams, http);
  return new ApolloClient({
    link: session ? ApolloLink.from([...authLinks(session), transport]) : transport,
    cache: new InMemoryCache({ possibleTypes }),
  });
}

// graphql-ws subscribes again by itself with the variables it was given: these keep the cursor of the last event.
const keepCursor = new ApolloLink((operation, forward) =>
  forward(operation).pipe(
    tap(({ data }) => {
      const [event] = Object.values(data ?? {});
      if (event?.cursor) operation.variables.after = event.cursor;
    }),
  ),
);

// Each operation shows the token of the moment. One that was refused is repeated once, with a new token.
function authLinks(session) {
  const repeat = new ErrorLink(({ error, operation, forward }) => {
    if (!isUnauthenticated(error)) return undefined;
    const renewed = from(session.renew(operation.getContext().token));
    return renewed.pipe(mergeMap((token) => (token ? forward(operation) : throwError(() => new SignedOut()))));
  });
  const show = new SetContextLink(({ headers }, { operationType }) => {
    if (operationType === 'subscription' && !session.token) throw new SignedOut();
    return { token: session.token, headers: { ...headers, ...session.headers() } };
  });
  return [repeat, show];
}

function isUnauthenticated(error) {
  return CombinedGraphQLErrors.is(error) && error.errors.some(({ extensions }) => extensions?.code === 'UNAUTHENTICATED');
}

// The options are those of graphql-ws. Node before 22 has no WebSocket: give it one with
// `globalThis.WebSocket ??= (await import('ws')).default`.
export function makeSocket(url, options = {}) {
  return createClient({
    url: url.replace(/^http/, 'ws'),
    shouldRetry: () => true, // also when the server cannot be reached at all
    retryAttempts: Infinity,
    ...options,
  });
}

// Calls `onChange` with the growing reply. A cut stream goes on from its cursor; a refusal ends it.
// Deltas stay out of the cache: that would cost a write per token.
export function watchReply(client, replyId, onChange, pause = 1000) {
  let reply = nothingYet;
  let refusal;
  return new Promise((resolve, reject) => {
    const subscribe = () => {
      const variables = { replyId, after: reply.cursor };
      client.subscribe({ query: gql(REPLY_STREAM), variables, fetchPolicy: 'no-cache' }).subscribe({
        next({ data, error }) {
          if (CombinedGraphQLErrors.is(error) || error instanceof SignedOut) refusal = error;
          if (data) onChange((reply = applyEvent(reply, data.replyStream)));
        },
        complete() {
          if (refusal) reject(refusal);
          else if (reply.finished) resolve(reply);
          else setTimeout(subscribe, pause);
        },
      });
    };
    subscribe();
  });
}
