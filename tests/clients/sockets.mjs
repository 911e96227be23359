// Watches a reply with graphql-ws: node sockets.mjs ADDRESS REPLY [resuming|replacing]
// graphql-ws connects again by itself and sends the first variables again. With a getter on `after` these carry the
// cursor of the moment, and the stream goes on from there; without, a snapshot replaces what is held. Both are right.
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';
import { pause, print } from './printing.mjs';
import { REPLY_STREAM, applyEvent, nothingYet, textOf } from './reply.mjs';

const [url, replyId, mode] = process.argv.slice(2);
const client = createClient({
  url: url.replace(/^http/, 'ws'),
  webSocketImpl: WebSocket,
  shouldRetry: () => true,
  retryAttempts: Infinity,
  retryWait: pause,
});

let reply = nothingYet;
const variables = mode === 'resuming' ? { replyId, get after() { return reply.cursor; } } : { replyId };
for await (const { data } of client.iterate({ query: REPLY_STREAM, variables })) {
  reply = applyEvent(reply, data.replyStream);
  print.seen(textOf(reply));
}
print.finished(replyId, reply);
