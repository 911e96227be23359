// urql for Tertulia, with accounts: queries and mutations over HTTP, replies over a WebSocket.
import { Client, fetchExchange, subscriptionExchange } from '@urql/core';
import { authExchange } from '@urql/exchange-auth';
import { createClient } from 'graphql-ws';
import { REPLY_STREAM, applyEvent, nothingYet } from './reply.mjs';
import { socketOptions, subscribeResuming } from './session.mjs';

// The options are those of graphql-ws.
export function makeClient(url, session, options = {}) {
  const signedIn = socketOptions(session);
  const socket = createClient({ url: url.replace(/^http/, 'ws'), ...signedIn, ...options });
  const streams = subscriptionExchange({
    forwardSubscription: (request) => ({
      subscribe: (sink) => ({ unsubscribe: subscribeResuming(socket, request, sink) }),
    }),
  });
  return new Client({ url, preferGetMethod: false, exchanges: [authentication(session), fetchExchange, streams] });
}

function authentication(session) {
  return authExchange(async ({ appendHeaders }) => {
    let shown = null;
    return {
      addAuthToOperation(operation) {
        shown = session.token;
        return appendHeaders(operation, session.headers());
      },
      didAuthError: (error) => error.graphQLErrors.some(({ extensions }) => extensions?.code === 'UNAUTHENTICATED'),
      refreshAuth: () => session.renew(shown),
    };
  });
}

// Calls `onChange` with the growing reply. graphql-ws resumes a cut stream; a refusal ends it.
export function watchReply(client, replyId, onChange) {
  let reply = nothingYet;
  return new Promise((resolve, reject) => {
    const { unsubscribe } = client.subscription(REPLY_STREAM, { replyId }).subscribe(({ data, error }) => {
      if (error) return reject(error);
      onChange((reply = applyEvent(reply, data.replyStream)));
      if (reply.finished) {
        resolve(reply);
        unsubscribe();
      }
    });
  });
}
