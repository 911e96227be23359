// Apollo Client 4 for Tertulia: queries and mutations over HTTP, replies over a WebSocket or over multipart HTTP.
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { createClient } from 'graphql-ws';
import { REPLY_STREAM, applyEvent, nothingYet } from './reply.mjs';

export const possibleTypes = {
  ConversationEvent: [
    'ConversationCreated',
    'ConversationDeleted',
    'ConversationUpdated',
    'MessageAdded',
    'MessageUpdated',
    'ResyncRequired',
  ],
  MessagePart: ['ReasoningPart', 'TextPart'],
  ReplyEvent: ['PartAdded', 'ReplyFinished', 'ReplyRetrying', 'ReplySnapshot', 'ReplyStatusChanged', 'TextDelta'],
  UserError: [
    'ConflictError',
    'ContextTooLongError',
    'InvalidInputError',
    'NotFoundError',
    'ReplyInProgressError',
    'UnavailableError',
  ],
};

// Give a socket to stream over it; without one, Apollo's HttpLink streams by multipart HTTP.
export function makeClient(url, socket) {
  const http = new HttpLink({ uri: url });
  const streams = socket ? new GraphQLWsLink(socket) : http;
  return new ApolloClient({
    link: ApolloLink.split((operation) => operation.operationType === 'subscription', streams, http),
    cache: new InMemoryCache({ possibleTypes }),
  });
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
          if (CombinedGraphQLErrors.is(error)) refusal = error;
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
