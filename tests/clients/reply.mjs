// A reply as a client holds it: the stream to subscribe to, and how each of its events changes the reply.
// Works with any GraphQL client. Unknown kinds of events change nothing but the cursor.

export const REPLY_STREAM = `
  subscription ReplyStream($replyId: ID!, $after: String) {
    replyStream(replyId: $replyId, after: $after) {
      cursor
      __typename
      ... on ReplySnapshot { reply { status parts { ...Part } } }
      ... on PartAdded { part { ...Part } }
      ... on TextDelta { partId text }
      ... on ReplyStatusChanged { status }
      ... on ReplyFinished { reply { status parts { ...Part } generation { error { code message } } } }
    }
  }
  fragment Part on MessagePart {
    __typename
    id
    ... on TextPart { text }
    ... on ReasoningPart { text }
  }
`;

export const nothingYet = { cursor: null, status: 'QUEUED', parts: [], finished: false };

export function applyEvent(reply, event) {
  const { cursor } = event;
  switch (event.__typename) {
    case 'ReplySnapshot': // replaces what was held before
      return { ...reply, cursor, ...event.reply };
    case 'PartAdded':
      return { ...reply, cursor, parts: [...reply.parts, event.part] };
    case 'TextDelta': {
      const grown = (part) => (part.id === event.partId ? { ...part, text: part.text + event.text } : part);
      return { ...reply, cursor, parts: reply.parts.map(grown) };
    }
    case 'ReplyStatusChanged':
      return { ...reply, cursor, status: event.status };
    case 'ReplyFinished':
      return { ...reply, cursor, ...event.reply, finished: true };
    default:
      return { ...reply, cursor };
  }
}

export function textOf(reply) {
  return reply.parts.filter((part) => part.__typename === 'TextPart').map((part) => part.text).join('');
}
