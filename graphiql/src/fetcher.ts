import { createGraphiQLFetcher, type Fetcher } from '@graphiql/toolkit';
import { CloseCode, createClient } from 'graphql-ws';

import { currentToken, onTokenChange, refuseToken, setToken, withToken } from './token';

export const url = new URL('/graphql', window.location.href).href;

/** The headers of the latest operation; a subscription sends them as the payload of connection_init. */
let headers: Record<string, string> | undefined;

const client = createClient({
  url: url.replace(/^http/, 'ws'),
  connectionParams: () => withToken(headers),
  // As by default, after any close, but not with a token that was just refused.
  shouldRetry: (event) => ![undefined, CloseCode.Forbidden].includes((event as CloseEvent).code),
  on: {
    closed: (event) => {
      if ((event as CloseEvent).code === CloseCode.Forbidden) {
        refuseToken();
      }
    },
  },
});

// A subscription that is running goes on over a new socket, as whoever the new token names.
onTokenChange((before) => {
  if (before.text !== currentToken().text) {
    client.terminate();
  }
});

// Queries and mutations go over POST, subscriptions over graphql-transport-ws.
const send = createGraphiQLFetcher({ url, wsClient: client, enableIncrementalDelivery: false });

type Payload = { reply?: { id?: unknown }; accessToken?: unknown } | null;

/** What the page takes from a mutation's result: `<mutation> { reply { id } }` and `<mutation> { accessToken }`. */
function findNews(result: unknown): { replyId?: string; accessToken?: string } {
  const { data } = (result ?? {}) as { data?: Record<string, Payload> | null };
  const payloads = Object.values(data ?? {});
  const first = (values: unknown[]) => values.find((value): value is string => typeof value === 'string');
  return {
    replyId: first(payloads.map((payload) => payload?.reply?.id)),
    accessToken: first(payloads.map((payload) => payload?.accessToken)),
  };
}

type ReplyEvent = { __typename?: string; text?: string; reply?: { text?: string } };
type Result = { data?: { replyStream?: ReplyEvent } | null; extensions?: Record<string, unknown> };

/** GraphiQL shows the latest event only; so that a reply can be watched, each event is given the text up to it. */
async function* withTextSoFar(results: AsyncIterable<Result>): AsyncGenerator<Result> {
  let textSoFar = '';
  for await (const result of results) {
    const event = result.data?.replyStream;
    if (event === undefined) {
      yield result;
      continue;
    }
    textSoFar = event.reply?.text ?? textSoFar + (event.text ?? '');
    yield { ...result, extensions: { ...result.extensions, textSoFar } };
  }
}

/** The fetcher of the page. `onReply` hears of every reply that an operation has begun. */
export function createFetcher(onReply: (replyId: string) => void): Fetcher {
  return async (params, options) => {
    headers = options?.headers;
    const result = await send(params, { ...options, headers: withToken(headers) });
    const { replyId, accessToken } = findNews(result);
    if (replyId !== undefined) {
      onReply(replyId);
    }
    if (accessToken !== undefined) {
      setToken(accessToken);
    }
    return Symbol.asyncIterator in Object(result) ? withTextSoFar(result as AsyncIterable<Result>) : result;
  };
}
