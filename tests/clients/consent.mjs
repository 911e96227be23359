// Watches a reply with Apollo Client and approves the tool calls in it: node consent.mjs ADDRESS REPLY
import { gql } from '@apollo/client';
import WebSocket from 'ws';
import { makeClient, makeSocket, watchReply } from './apollo-client.mjs';
import { pause } from './printing.mjs';
import { RESOLVE_TOOL_CALL, callsOf, textOf, waitingCalls } from './reply.mjs';

const [url, replyId] = process.argv.slice(2);
globalThis.WebSocket ??= WebSocket;
const socket = makeSocket(url, { retryWait: pause });
const client = makeClient(url, socket);
const asked = new Set();
const statuses = [];

function onChange(held) {
  statuses.push(...callsOf(held).map(({ status }) => status));
  for (const { id } of waitingCalls(held).filter(({ id }) => !asked.has(id))) {
    asked.add(id);
    client.mutate({ mutation: gql(RESOLVE_TOOL_CALL), variables: { input: { toolCallId: id, decision: 'APPROVE' } } });
  }
}

const reply = await watchReply(client, replyId, onChange, 10);
const [call] = callsOf(reply);
console.log(JSON.stringify({ status: reply.status, text: textOf(reply), call, statuses }));
await socket.dispose();
