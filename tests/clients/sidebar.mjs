// Keeps a list of conversations in Apollo's cache up to date, whatever happens in other tabs and on other devices.
import { gql } from '@apollo/client';

const ROW = gql`fragment Row on Conversation { id title lastActivityAt }`;

export const SIDEBAR = gql`
  query Sidebar { conversations(first: 30) { nodes { ...Row } } }
  ${ROW}
`;

const EVENTS = gql`
  subscription ConversationEvents($after: String) {
    conversationEvents(after: $after) {
      cursor
      __typename
      ... on ConversationCreated { conversation { ...Row } }
      ... on ConversationUpdated { conversation { ...Row } }
      ... on ConversationDeleted { conversationId }
      ... on MessageAdded { conversation { ...Row } }
      ... on MessageUpdated { message { id status conversation { ...Row } } }
    }
  }
  ${ROW}
`;

// Returns a function that ends it. Events are applied one after the other: while the list is fetched the later ones
// wait, so that an answer never covers what is newer than itself.
export function followConversations(client, pause = 1000) {
  let cursor = null;
  let applied = Promise.resolve();
  let subscription;
  let timer;
  const subscribe = () => {
    const variables = { after: cursor };
    subscription = client.subscribe({ query: EVENTS, variables, fetchPolicy: 'no-cache' }).subscribe({
      next({ data }) {
        if (!data) return;
        cursor = data.conversationEvents.cursor;
        applied = applied.then(() => apply(client, data.conversationEvents, pause));
      },
      complete() {
        timer = setTimeout(subscribe, pause); // it never completes by itself: the connection was cut
      },
    });
  };
  subscribe();
  return () => {
    clearTimeout(timer);
    subscription.unsubscribe();
  };
}

async function apply(client, event, pause) {
  const { cache } = client;
  if (event.__typename === 'ResyncRequired') {
    await fetchList(client, pause);
  } else if (event.__typename === 'ConversationDeleted') {
    cache.evict({ id: cache.identify({ __typename: 'Conversation', id: event.conversationId }) });
    cache.gc();
  } else {
    const row = event.conversation ?? event.message?.conversation;
    if (row) cache.writeFragment({ id: cache.identify(row), fragment: ROW, data: row });
    if (event.__typename === 'ConversationCreated') cache.updateQuery({ query: SIDEBAR }, (list) => begin(list, row));
  }
}

function begin(list, row) {
  if (!list || list.conversations.nodes.some(({ id }) => id === row.id)) return list;
  return { conversations: { ...list.conversations, nodes: [row, ...list.conversations.nodes] } };
}

// A fresh answer, never that of a request which was under way already.
async function fetchList(client, pause) {
  const fresh = { query: SIDEBAR, fetchPolicy: 'network-only', context: { queryDeduplication: false } };
  while (!(await client.query(fresh).catch(() => null))) await new Promise((done) => setTimeout(done, pause));
}
