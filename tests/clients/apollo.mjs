// Watches a reply with Apollo Client: node apollo.mjs ADDRESS REPLY [sockets|multipart]
import WebSocket from 'ws';
import { makeClient, makeSocket, watchReply } from './apollo-client.mjs';
import { pause, print } from './printing.mjs';
import { textOf } from './reply.mjs';

const [url, replyId, way] = process.argv.slice(2);
globalThis.WebSocket ??= WebSocket;
const socket = way === 'sockets' ? makeSocket(url, { retryWait: pause }) : undefined;
const reply = await watchReply(makeClient(url, socket), replyId, (held) => print.seen(textOf(held)), 10);
print.finished(replyId, reply);
await socket?.dispose();
