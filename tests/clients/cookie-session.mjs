// Signs in where the server keeps the refresh token in a cookie, and loads the page again: the cookie is all there is.
// node cookie-session.mjs ADDRESS E-MAIL PASSWORD
import { print } from './printing.mjs';
import { makeSession } from './session.mjs';

const [url, email, password] = process.argv.slice(2);
const plain = globalThis.fetch;
let cookie = '';
globalThis.fetch = async (address, { headers, ...options }) => { // what a browser does by itself
  const response = await plain(address, { ...options, headers: { ...headers, cookie } });
  for (const line of response.headers.getSetCookie()) [cookie] = line.split(';');
  return response;
};

const kept = { get: () => null, set: (token) => print.line({ kept: token }) };
const before = makeSession(url, { kept });
await before.signIn(email, password);
const after = makeSession(url, { kept, onEnd: () => print.line({ ended: true }) });
print.line({ renewed: (await after.renew(null)) !== null });
await after.signOut();
print.line({ renewed: (await after.renew(null)) !== null });
