// A WebSocket server of a published library, as a pod.
//
// websocket_server.mjs ws|socket.io <name>, with the packages in $NODE_MODULES. Writes its port as a line of JSON, then a line
// for each connection that has closed. Answers each message with its name in front of it.

import { createRequire } from "node:module";
import { createServer } from "node:http";

const [library, name] = process.argv.slice(2);
const from = createRequire(`${process.env.NODE_MODULES}/`);
const say = (facts) => console.log(JSON.stringify(facts));
const server = createServer();

const libraries = {
  "ws"() {
    const { WebSocketServer } = from("ws");
    new WebSocketServer({ server, perMessageDeflate: true }).on("connection", (socket) => {
      socket.on("message", (message) => socket.send(`${name}: ${message}`));
      socket.on("close", (closed) => say({ closed }));
    });
  },
  "socket.io"() {
    const { Server } = from("socket.io");
    new Server(server).on("connection", (socket) => {
      socket.on("say", (message, answer) => answer(`${name}: ${message}`));
      socket.on("disconnect", (closed) => say({ closed }));
    });
  },
};

libraries[library]();
server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
