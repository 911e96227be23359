// Prints the titles of a sidebar as they change: node sidebar-titles.mjs ADDRESS [sockets|multipart]
import WebSocket from 'ws';
import { makeClient, makeSocket } from './apollo-client.mjs';
import { pause, print } from './printing.mjs';
import { SIDEBAR, followConversations } from './sidebar.mjs';

const [url, way] = process.argv.slice(2);
globalThis.WebSocket ??= WebSocket;
const client = makeClient(url, way === 'sockets' ? makeSocket(url, { retryWait: pause }) : undefined);
client.watchQuery({ query: SIDEBAR, fetchPolicy: 'cache-only' }).subscribe(({ data, dataState }) => {
  if (dataState === 'complete') print.titles(data.conversations.nodes.map(({ title }) => title));
});
followConversations(client, 10);
