// Watches a reply with graphql-sse: node sse.mjs ADDRESS REPLY [resuming|replacing]
// graphql-sse repeats a request whose connection was cut, but not when events were still waiting to be taken: then it
// throws, and we ask again ourselves.
import { createClient } from 'graphql-sse';
import { pause, print } from './printing.mjs';
import { REPLY_STREAM, applyEvent, nothingYet, textOf } from './reply.mjs';

const [url, replyId, mode] = process.argv.slice(2);
const client = createClient({ url, retryAttempts: Infinity, retry: pause });

let reply = nothingYet;
const variables = mode === 'resuming' ? { replyId, get after() { return reply.cursor; } } : { replyId };
while (!reply.finished) {
  try {
    for await (const { data, errors } of client.iterate({ query: REPLY_STREAM, variables })) {
      if (errors) throw Object.assign(new Error(errors[0].message), { refused: true });
      reply = applyEvent(reply, data.replyStream);
      print.seen(textOf(reply));
    }
  } catch (error) {
    if (error.refused) throw error;
    await pause();
  }
}
print.finished(replyId, reply);
