// GraphiQL keeps its tabs in the local storage of the origin. Other services that
// are run on the same localhost port do so too, under the same names: ours get a prefix.
const PREFIX = 'tertulia:';

const TABS = 'graphiql:tabState';

// GraphiQL also keeps the open tab's texts one by one, each after a delay of its own, and
// adds a tab when a page that was closed in between left them unlike any tab. So they are
// not kept, but taken from the tabs.
const OF_OPEN_TAB: Record<string, 'query' | 'variables'> = {
  'graphiql:query': 'query',
  'graphiql:variables': 'variables',
};

// Passwords and tokens in operations and their variables do not go into the local storage.
const SECRET = /("?\w*(?:password|token)"?\s*:\s*)"(?:[^"\\]|\\.)*"?/gi;

// The tabs and the history: JSON in which operations and variables are texts.
const OF_OPERATIONS = [TABS, 'graphiql:queries', 'graphiql:favorites'];

function withoutSecrets(json: string): string {
  const strip = (_: string, value: unknown) => (typeof value === 'string' ? value.replace(SECRET, '$1""') : value);
  return JSON.stringify(JSON.parse(json, strip));
}

function ownKeys(): string[] {
  return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
}

function getItem(key: string): string | null {
  const property = OF_OPEN_TAB[key];
  if (!property) {
    return localStorage.getItem(PREFIX + key);
  }
  try {
    const { tabs, activeTabIndex } = JSON.parse(getItem(TABS) ?? '');
    return tabs[activeTabIndex][property] ?? null;
  } catch {
    return null;
  }
}

const prefixed: Storage = {
  get length() {
    return ownKeys().length;
  },
  key: (index) => ownKeys()[index]?.slice(PREFIX.length) ?? null,
  getItem,
  setItem: (key, value) => {
    if (!(key in OF_OPEN_TAB)) {
      localStorage.setItem(PREFIX + key, OF_OPERATIONS.includes(key) ? withoutSecrets(value) : value);
    }
  },
  removeItem: (key) => localStorage.removeItem(PREFIX + key),
  clear: () => ownKeys().forEach((key) => localStorage.removeItem(key)),
};

function open(): Storage | null {
  try {
    localStorage.getItem(PREFIX);
    return prefixed;
  } catch {
    return null; // The browser blocks it: nothing is kept.
  }
}

export const storage = open();

export const isFirstVisit = !storage?.getItem(TABS);
