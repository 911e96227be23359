import { defineConfig } from 'vite';

export default defineConfig({
  // The server serves index.html at /graphiql and the rest at /graphiql/assets/*.
  base: '/graphiql/',
  build: {
    outDir: '../tertulia/static/graphiql',
    emptyOutDir: true,
    sourcemap: false,
    license: { fileName: 'licenses.md' },
    // Every asset becomes a file of its own, so that no data: address is added to the page.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The editor is one chunk of about 3 MB, loaded after the page itself.
    chunkSizeWarningLimit: 4000,
    // Says of a hundred files that their "use client" line has no effect here.
    rolldownOptions: { checks: { moduleLevelDirective: false } },
  },
  // The workers split their code, which only ES modules can.
  worker: { format: 'es' },
});
