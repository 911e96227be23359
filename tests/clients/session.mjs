// Who is signed in, for any GraphQL client: an access token in memory, and a new one when it holds no longer.

const LOGIN = `mutation Login($input: LoginInput!) {
  login(input: $input) { accessToken refreshToken errors { code message } }
}`;
const REFRESH = `mutation Refresh($input: RefreshSessionInput!) {
  refreshSession(input: $input) { accessToken refreshToken errors { code message } }
}`;
const LOGOUT = 'mutation Logout($input: LogoutInput!) { logout(input: $input) { errors { code message } } }';

const NOBODY = { accessToken: null, refreshToken: null };

// What is asked on behalf of somebody when nobody is signed in.
export class SignedOut extends Error {
  message = 'Nobody is signed in.';
}

// `kept` is where the refresh token stays, null where the server keeps it in a cookie; for the cookie of an API of
// another origin `credentials` is 'include'. `onEnd` is called when the session has ended: show the sign-in page.
export function makeSession(url, { kept = inMemory(), credentials = 'same-origin', onEnd = () => {} } = {}) {
  let renewing;

  // Raises an Error with the `code` of what the server refused, or without one when it cannot be reached.
  async function ask(query, name, input) {
    const response = await fetch(url, {
      method: 'POST',
      credentials,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query, variables: { input } }),
    });
    const { data, errors } = await response.json();
    const [error] = errors ?? data[name].errors;
    if (error) throw Object.assign(new Error(error.message), { code: error.code ?? error.extensions?.code });
    return data[name];
  }

  async function refresh() {
    try {
      session.take(await ask(REFRESH, 'refreshSession', { refreshToken: kept.get() }));
    } catch (error) {
      if (error.code !== 'SESSION_EXPIRED') throw error; // the server is away: the session is not over
      session.take(NOBODY);
      onEnd();
    }
    return session.token;
  }

  const session = {
    token: null,

    headers: () => (session.token ? { authorization: `Bearer ${session.token}` } : {}),

    async signIn(email, password) {
      session.take(await ask(LOGIN, 'login', { email, password }));
    },

    async signOut() {
      await ask(LOGOUT, 'logout', { refreshToken: kept.get() });
      session.take(NOBODY);
    },

    // The tokens that `register` and `changePassword` answer, too.
    take({ accessToken, refreshToken }) {
      session.token = accessToken;
      kept.set(refreshToken);
    },

    // A token other than the one that failed, or null when the session has ended. However many ask at a time, the
    // session is refreshed once. After a page was loaded, `renew(null)` finds out whether somebody is signed in.
    async renew(failed) {
      if (session.token !== failed) return session.token;
      renewing ??= refresh().finally(() => { renewing = undefined; });
      return renewing;
    },
  };
  return session;
}

function inMemory() {
  let token = null;
  return { get: () => token, set(value) { token = value; } };
}

// Options for graphql-ws: each connection shows the token of the moment, and one that was closed with 4403 (the token
// was wrong, expired or revoked) is followed by one with a new token.
export function socketOptions(session) {
  let shown = null;
  let refused = false;
  return {
    shouldRetry: () => true,
    retryAttempts: Infinity,
    async connectionParams() {
      if (refused) await session.renew(shown).catch(() => {}); // the server is away: come again
      shown = session.token;
      if (!shown) throw new SignedOut(); // after this graphql-ws does not come again
      return session.headers();
    },
    on: { closed({ code }) { refused = code === 4403; } },
  };
}

// graphql-ws sends a request again after each reconnect. This sends it with the cursor of the last event.
export function subscribeResuming(socket, { query, variables }, sink) {
  const current = { ...variables };
  return socket.subscribe({ query, variables: current }, {
    ...sink,
    next(result) {
      const [event] = Object.values(result.data ?? {});
      if (event?.cursor) current.after = event.cursor;
      sink.next(result);
    },
  });
}
