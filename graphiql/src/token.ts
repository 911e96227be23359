// The token of the page. The session storage ends with the browser's tab, while the local
// storage stays on the disk, where any other service that is run on the same port can read it.
const KEY = 'tertulia:token';

export type Token = { text: string; refused: boolean };

function stored(): string {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return ''; // The browser blocks it: the token ends with the page.
  }
}

let token: Token = { text: stored(), refused: false };
type Listener = (before: Token) => void;
const listeners = new Set<Listener>();

function change(next: Token): void {
  const before = token;
  token = next;
  listeners.forEach((listener) => listener(before));
}

export const currentToken = (): Token => token;

/** Calls `listener` after every change; the result takes it away again. */
export function onTokenChange(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Takes a token as it was pasted; the empty text signs out. */
export function setToken(pasted: string): void {
  const text = pasted.trimStart().replace(/^bearer\s+/i, '');
  try {
    sessionStorage.setItem(KEY, text);
  } catch {
    // As in `stored`.
  }
  change({ text, refused: false });
}

/** The server closed a socket because of the token, or because there was none. */
export function refuseToken(): void {
  change({ ...token, refused: true });
}

/** The headers of an operation, with the token unless they name another themselves. */
export function withToken(headers: Record<string, string> = {}): Record<string, string> {
  const named = Object.keys(headers).some((name) => name.toLowerCase() === 'authorization');
  return named || !token.text ? headers : { ...headers, Authorization: `Bearer ${token.text.trimEnd()}` };
}
