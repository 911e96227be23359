// Relay's network for Tertulia, with accounts: queries and mutations over HTTP, subscriptions over a WebSocket.
import relay from 'relay-runtime';
import { subscribeResuming } from './session.mjs';

const { Network, Observable } = relay;

// `socket` is a client of graphql-ws, made with the options that session.mjs has for it.
export function makeNetwork(url, session, socket) {
  async function ask(request, variables) {
    const token = session.token;
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...session.headers() },
      body: JSON.stringify({ query: request.text, variables }),
    });
    return { answer: await response.json(), token };
  }

  async function execute(request, variables) {
    const { answer, token } = await ask(request, variables);
    const refused = answer.errors?.some(({ extensions }) => extensions?.code === 'UNAUTHENTICATED');
    if (!refused || !(await session.renew(token))) return answer;
    return (await ask(request, variables)).answer;
  }

  const subscribe = (request, variables) =>
    Observable.create((sink) => subscribeResuming(socket, { query: request.text, variables }, sink));

  return Network.create(execute, subscribe);
}
