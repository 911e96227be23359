// `node --import on-loopback.mjs SERVER`: whatever the server wants to listen on, it is a free port of loopback, which
// is printed.
import { Server } from "node:net";

const listen = Server.prototype.listen;

Server.prototype.listen = function (_, ...others) {
  this.once("listening", () => console.log(JSON.stringify({ port: this.address().port })));
  return listen.call(this, 0, "127.0.0.1", ...others);
};
