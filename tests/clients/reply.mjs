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
      ... on ToolCallArgumentsDelta { partId argumentsText }
      ... on ToolCallChanged { partId toolCall { ...Call } }
      ... on ReplyStatusChanged { status }
      ... on ReplyFinished { reply { status parts { ...Part } generation { error { code message } } } }
    }
  }
  fragment Part on MessagePart {
    __typename
    id
    ... on TextPart { text }
    ... on ReasoningPart { text }
    ... on ToolCallPart { toolCall { ...Call } }
  }
  fragment Call on ToolCall { id name title status arguments argumentsText result error }
`;

export const RESOLVE_TOOL_CALL = `
  mutation ResolveToolCall($input: ResolveToolCallInput!) {
    resolveToolCall(input: $input) { toolCall { id status } errors { code message } }
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
    case 'TextDelta':
      return changed(reply, event, (part) => ({ ...part, text: part.text + event.text }));
    case 'ToolCallArgumentsDelta':
      return changed(reply, event, ({ toolCall, ...part }) => {
        const argumentsText = toolCall.argumentsText + event.argumentsText;
        return { ...part, toolCall: { ...toolCall, argumentsText } };
      });
    case 'ToolCallChanged':
      return changed(reply, event, (part) => ({ ...part, toolCall: event.toolCall }));
    case 'ReplyStatusChanged':
      return { ...reply, cursor, status: event.status };
    case 'ReplyFinished':
      return { ...reply, cursor, ...event.reply, finished: true };
    default:
      return { ...reply, cursor };
  }
}

function changed(reply, { cursor, partId }, change) {
  return { ...reply, cursor, parts: reply.parts.map((part) => (part.id === partId ? change(part) : part)) };
}

export function callsOf(reply) {
  return reply.parts.filter((part) => part.__typename === 'ToolCallPart').map((part) => part.toolCall);
}

// Those that wait for `RESOLVE_TOOL_CALL` with { toolCallId, decision: 'APPROVE' or 'DENY' }.
export function waitingCalls(reply) {
  return callsOf(reply).filter((call) => call.status === 'AWAITING_APPROVAL');
}

export function textOf(reply) {
  return reply.parts.filter((part) => part.__typename === 'TextPart').map((part) => part.text).join('');
}
