// Somebody signs in, and their access token ends in the middle of a reply and of several queries at once:
// node signed-in.mjs ADDRESS E-MAIL PASSWORD [apollo|multipart|sse|urql|relay]
import { gql } from '@apollo/client';
import { createClient as createStreams } from 'graphql-sse';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';
import * as apollo from './apollo-client.mjs';
import { pause, print } from './printing.mjs';
import { makeNetwork } from './relay-network.mjs';
import { REPLY_STREAM, applyEvent, nothingYet, textOf } from './reply.mjs';
import { makeSession, socketOptions } from './session.mjs';
import * as urql from './urql-client.mjs';

const VIEWER = 'query Viewer { conversations { totalCount } viewer { email } }';
const SEND = 'mutation Send($text: String!) { sendMessage(input: { text: $text }) { reply { id } errors { message } } }';
const AT_ONCE = 5;
const [url, email, password, way] = process.argv.slice(2);
globalThis.WebSocket ??= WebSocket;

const session = makeSession(url, { onEnd: () => print.line({ ended: true }) });
const ending = socketOptions(session);
let tokenEnded;
const atItsEnd = new Promise((resolve) => { tokenEnded = resolve; });
const options = {
  ...ending,
  retryWait: pause,
  on: {
    closed(event) {
      ending.on.closed(event);
      print.line({ closed: event.code });
      if (event.code === 4403) tokenEnded();
    },
  },
};

// Each way: one operation, and a reply that is watched.
const ways = {
  apollo: () => byApollo(apollo.makeSocket(url, options)),
  multipart: () => byApollo(undefined),
  sse() {
    const client = createStreams({ url, headers: session.headers, retryAttempts: Infinity, retry: pause });
    async function run(query, variables, onData) {
      const token = session.token;
      for await (const { data, errors } of client.iterate({ query, variables })) {
        const refused = errors?.[0].extensions?.code === 'UNAUTHENTICATED';
        if (refused && (await session.renew(token))) return run(query, variables, onData);
        if (errors) throw new Error(errors[0].message);
        onData(data);
      }
    }
    return {
      async ask(query, variables = {}) {
        let answer;
        await run(query, variables, (data) => { answer = data; });
        return answer;
      },
      async watch(replyId, onChange) {
        let reply = nothingYet;
        const variables = { replyId, get after() { return reply.cursor; } };
        await run(REPLY_STREAM, variables, ({ replyStream }) => onChange((reply = applyEvent(reply, replyStream))));
        return reply;
      },
    };
  },
  urql() {
    const client = urql.makeClient(url, session, options);
    return {
      ask: async (text, variables = {}) => {
        const { data, error } = await client[text.startsWith('query') ? 'query' : 'mutation'](text, variables, {
          requestPolicy: 'network-only',
        });
        if (error) throw error;
        return data;
      },
      watch: (replyId, onChange) => urql.watchReply(client, replyId, onChange),
    };
  },
  relay() {
    const socket = createClient({ url: url.replace(/^http/, 'ws'), ...options });
    const network = makeNetwork(url, session, socket);
    const run = (text, variables) => network.execute({ text, operationKind: text.trim().split(' ')[0] }, variables, {});
    return {
      ask: async (text, variables = {}) => (await run(text, variables).toPromise()).data,
      watch: (replyId, onChange) => new Promise((resolve, reject) => {
        let reply = nothingYet;
        run(REPLY_STREAM, { replyId }).subscribe({
          next({ data }) { onChange((reply = applyEvent(reply, data.replyStream))); },
          error: reject,
          complete: () => resolve(reply),
        });
      }),
    };
  },
};

function byApollo(socket) {
  const client = apollo.makeClient(url, socket, session);
  return {
    async ask(text, variables) {
      const context = { queryDeduplication: false };
      const asked = text.startsWith('query')
        ? client.query({ query: gql(text), variables, context, fetchPolicy: 'no-cache' })
        : client.mutate({ mutation: gql(text), variables });
      return (await asked).data;
    },
    watch: (replyId, onChange) => apollo.watchReply(client, replyId, onChange, 10),
  };
}

// Waits until the server answers 401.
async function refused(shown) {
  const headers = { 'content-type': 'application/json', ...shown };
  const body = JSON.stringify({ query: VIEWER });
  while ((await fetch(url, { method: 'POST', headers, body })).status !== 401) await pause();
  print.line({ closed: 401 });
}

await session.signIn(email, password);
const first = session.headers();
print.line({ signedIn: true });
const { ask, watch } = ways[way]();
const { sendMessage } = await ask(SEND, { text: way });
const watched = watch(sendMessage.reply.id, (reply) => print.seen(textOf(reply)));
watched.catch((error) => {
  print.line({ refused: error.message ?? error.reason });
  process.exit(0);
});

if (way === 'multipart' || way === 'sse') await refused(first).then(tokenEnded);
await atItsEnd;
const viewers = await Promise.allSettled(Array.from({ length: AT_ONCE }, () => ask(VIEWER)));
print.line({ viewers: viewers.map(({ value }) => value?.viewer.email ?? null) });

const reply = await watched;
print.finished(sendMessage.reply.id, reply);
process.exit(0);
