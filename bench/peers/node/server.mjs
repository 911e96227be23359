// graphql-js, graphql-ws and the OpenAI SDK: replies in memory, nothing is stored.
// `node server.mjs PORT`, GraphQL over WebSockets at /graphql. A reply is forgotten a minute after its end.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { buildSchema, GraphQLError } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';
import OpenAI from 'openai';
import { WebSocketServer } from 'ws';

const FORGET_AFTER_MS = 60_000;

const schema = buildSchema(`
  type Query { reply(id: ID!): Reply }
  type Mutation { sendMessage(text: String!): Message! }
  type Subscription { replyStream(replyId: ID!): ReplyEvent! }
  type Message { id: ID! conversationId: ID! }
  type Reply { id: ID! text: String! }
  type TextDelta { text: String! }
  type ReplyFinished { reply: Reply! }
  union ReplyEvent = TextDelta | ReplyFinished
`);

class Reply {
  #events = [];
  #readers = new Set();
  text = '';

  constructor(id) {
    this.id = id;
  }

  append(text) {
    this.text += text;
    this.#publish({ __typename: 'TextDelta', text });
  }

  finish() {
    this.#publish({ __typename: 'ReplyFinished', reply: { id: this.id, text: this.text } });
  }

  fail(error) {
    this.#publish(error);
  }

  #publish(event) {
    this.#events.push(event);
    for (const wake of this.#readers) wake();
    this.#readers.clear();
  }

  async *read() {
    for (let next = 0; ; next++) {
      if (next === this.#events.length) await new Promise((wake) => this.#readers.add(wake));
      const event = this.#events[next];
      if (event instanceof Error) throw event;
      yield { replyStream: event };
      if (event.__typename === 'ReplyFinished') return;
    }
  }
}

const openai = new OpenAI();
const replies = new Map();

async function generate(reply, text) {
  try {
    const stream = await openai.chat.completions.create({
      model: 'bench',
      messages: [{ role: 'user', content: text }],
      stream: true,
    });
    for await (const chunk of stream) {
      const piece = chunk.choices[0]?.delta.content;
      if (piece) reply.append(piece);
    }
    reply.finish();
  } catch (error) {
    console.error(error);
    reply.fail(error);
  }
  setTimeout(() => replies.delete(reply.id), FORGET_AFTER_MS);
}

const roots = {
  query: {
    reply: ({ id }) => replies.get(id),
  },
  mutation: {
    sendMessage({ text }) {
      const reply = new Reply(randomUUID());
      replies.set(reply.id, reply);
      generate(reply, text);
      return { id: reply.id, conversationId: randomUUID() };
    },
  },
  subscription: {
    replyStream({ replyId }) {
      const reply = replies.get(replyId);
      if (!reply) throw new GraphQLError('there is no such reply');
      return reply.read();
    },
  },
};

const server = createServer((_request, response) => response.writeHead(404).end());
useServer({ schema, roots }, new WebSocketServer({ server, path: '/graphql' }));
server.listen(Number(process.argv[2]), '127.0.0.1');
