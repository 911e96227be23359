import { createGraphiQLFetcher, type Fetcher } from '@graphiql/toolkit';

const url = new URL('/graphql', window.location.href);

// Queries and mutations go over POST, subscriptions over graphql-transport-ws.
const send = createGraphiQLFetcher({
  url: url.href,
  subscriptionUrl: url.href.replace(/^http/, 'ws'),
  enableIncrementalDelivery: false,
});

/** The id of the reply that a mutation's result announces, as `<mutation> { reply { id } }`. */
function findReplyId(result: unknown): string | undefined {
  const { data } = (result ?? {}) as { data?: Record<string, { reply?: { id?: unknown } } | null> };
  for (const payload of Object.values(data ?? {})) {
    const id = payload?.reply?.id;
    if (typeof id === 'string') {
      return id;
    }
  }
}

type ReplyEvent = { __typename?: string; text?: string; reply?: { text?: string } };
type Result = { data?: { replyStream?: ReplyEvent } | null; extensions?: object };

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
    const result = await send(params, options);
    const replyId = findReplyId(result);
    if (replyId !== undefined) {
      onReply(replyId);
    }
    return Symbol.asyncIterator in Object(result) ? withTextSoFar(result as AsyncIterable<Result>) : result;
  };
}
