import 'graphiql/setup-workers/vite';

// The parts of graphiql/style.css without its second copy of the editor's styles.
import '@graphiql/react/font/roboto.css';
import '@graphiql/react/font/fira-code.css';
import '@graphiql/react/style.css';
import '@graphiql/plugin-doc-explorer/style.css';
import '@graphiql/plugin-history/style.css';
import 'graphiql/graphiql.css';
import './main.css';

import { useGraphiQL, useGraphiQLActions } from '@graphiql/react';
import { GraphiQL } from 'graphiql';
import { useEffect, useMemo, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { askAuthentication } from './authentication';
import { createFetcher, url } from './fetcher';
import { isFirstVisit, storage } from './storage';
import { defaultTabs, SEND_TAB, SIGN_IN_TAB } from './tabs';
import { TokenBox } from './TokenBox';

/** Opens a tab when the page is opened for the first time; later GraphiQL opens the last one. */
function OpenTab({ index }: { index: number }) {
  const { changeTab } = useGraphiQLActions();
  const ready = useGraphiQL((state) =>
    Boolean(state.queryEditor && state.variableEditor && state.headerEditor && state.responseEditor),
  );
  const done = useRef(!isFirstVisit);
  useEffect(() => {
    if (ready && !done.current) {
      done.current = true;
      changeTab(index);
    }
  }, [ready, changeTab, index]);
  return null;
}

/** Puts the id of the latest reply into the variables of the Stream tab, once, when that is the open tab. */
function FillReplyId({ replyId }: { replyId: string | null }) {
  const tab = useGraphiQL((state) => state.tabs[state.activeTabIndex]);
  const variableEditor = useGraphiQL((state) => state.variableEditor);
  const filled = useRef<string | null>(null);
  const wanted = Boolean(tab?.query?.includes('$replyId'));
  useEffect(() => {
    if (wanted && variableEditor && replyId && replyId !== filled.current) {
      filled.current = replyId;
      variableEditor.setValue(JSON.stringify({ replyId }, null, 2) + '\n');
    }
  }, [wanted, variableEditor, replyId]);
  return null;
}

function App({ authentication }: { authentication: string[] }) {
  const [replyId, setReplyId] = useState<string | null>(null);
  const fetcher = useMemo(() => createFetcher(setReplyId), []);
  const signIn = authentication.includes('PASSWORD');
  return (
    <GraphiQL
      fetcher={fetcher}
      storage={storage as Storage}
      defaultTabs={signIn ? [SIGN_IN_TAB, ...defaultTabs] : defaultTabs}
      defaultEditorToolsVisibility="variables"
    >
      {authentication.length > 0 && (
        <GraphiQL.Logo>
          <TokenBox />
        </GraphiQL.Logo>
      )}
      <OpenTab index={signIn ? 0 : SEND_TAB} />
      <FillReplyId replyId={replyId} />
    </GraphiQL>
  );
}

const authentication = await askAuthentication(url);
createRoot(document.getElementById('root')!).render(<App authentication={authentication} />);
