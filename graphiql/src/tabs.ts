import type { GraphiQLProps } from 'graphiql';

type Tabs = NonNullable<GraphiQLProps['defaultTabs']>;

/** Stands before the other tabs where a server has accounts with passwords. */
export const SIGN_IN_TAB: Tabs[number] = {
  query: `# Signs in. This page puts the access token into
# the box at the top, from where it is sent with
# every operation. The password is not kept.
mutation SignIn($input: LoginInput!) {
  login(input: $input) {
    accessToken
    accessTokenExpiresAt
    refreshToken
    viewer {
      id
      email
    }
    errors {
      code
      message
    }
  }
}
`,
  variables: `{
  "input": {
    "email": "you@example.com",
    "password": ""
  }
}
`,
};

export const SEND_TAB = 1;

export const defaultTabs: Tabs = [
  {
    query: `# The ten conversations with the latest activity,
# each with its last four messages.
query List {
  conversations(first: 10) {
    nodes {
      id
      title
      lastActivityAt
      messages(last: 4) {
        nodes {
          id
          role
          status
          text
        }
      }
    }
  }
}
`,
  },
  {
    query: `# Sends a message in a new conversation.
# The reply is written in the background: go on to
# the Stream tab to watch it. Its replyId is filled
# in from the reply.id of the last message sent.
mutation Send($text: String!) {
  sendMessage(input: { text: $text }) {
    conversation {
      id
      title
    }
    message {
      id
    }
    reply {
      id
      status
    }
    errors {
      code
      message
      path
    }
  }
}
`,
    variables: `{
  "text": "Tell me a long story about a lighthouse keeper and a whale."
}
`,
  },
  {
    query: `# Follows one reply until it is finished.
# It begins with a snapshot of what is written; with
# the cursor of an earlier event as $after it goes on
# from there. Only the latest event is shown; this
# page adds the text so far to it as an extension.
subscription Stream($replyId: ID!, $after: String) {
  replyStream(replyId: $replyId, after: $after) {
    __typename
    cursor
    ... on ReplySnapshot {
      reply {
        status
        text
      }
    }
    ... on PartAdded {
      part {
        id
        index
        __typename
      }
    }
    ... on TextDelta {
      partId
      text
    }
    ... on ReplyStatusChanged {
      status
    }
    ... on ReplyRetrying {
      attempt
      delayMs
    }
    ... on ReplyFinished {
      reply {
        status
        text
        generation {
          model
          finishReason
          usage {
            inputTokens
            outputTokens
          }
          error {
            code
            message
          }
        }
      }
    }
  }
}
`,
    variables: `{
  "replyId": "msg_..."
}
`,
  },
  {
    query: `# Sends a message and waits up to 30 seconds
# for the whole reply.
mutation Ask {
  sendMessage(input: { text: "Say hello in five words.", waitMs: 30000 }) {
    reply {
      status
      text
    }
    errors {
      code
      message
    }
  }
}
`,
  },
];
