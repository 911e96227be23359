import { useId, useState, useSyncExternalStore } from 'react';

import { currentToken, onTokenChange, setToken } from './token';

/** Where the token of the page is pasted, shown and taken away. */
export function TokenBox() {
  const { text, refused } = useSyncExternalStore(onTokenChange, currentToken);
  const [shown, setShown] = useState(false);
  const id = useId();
  return (
    <div className="token-box">
      <label htmlFor={id}>Token</label>
      <input
        id={id}
        type={shown ? 'text' : 'password'}
        value={text}
        onChange={(event) => setToken(event.target.value)}
        placeholder="signed out"
        autoComplete="off"
        spellCheck={false}
        aria-invalid={refused}
        aria-describedby={`${id}-state`}
      />
      <button type="button" aria-label="Show the token" aria-pressed={shown} onClick={() => setShown(!shown)}>
        {shown ? 'Hide' : 'Show'}
      </button>
      <p id={`${id}-state`} role="status">
        {refused && (text ? 'The token has expired or is wrong.' : 'The server wants a token: sign in.')}
      </p>
    </div>
  );
}
