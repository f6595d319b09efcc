// A WebSocket client of a published library, which comes back with its cookie.
//
// websocket_client.mjs ws|socket.io <host:port>, with the packages in $NODE_MODULES. Writes a line of JSON for each answer to a
// message, with the transport of that moment, and for each end of its connection.

import { createRequire } from "node:module";

const [library, address] = process.argv.slice(2);
const from = createRequire(`${process.env.NODE_MODULES}/`);
const say = (facts) => console.log(JSON.stringify(facts));

const libraries = {
  async "ws"() {
    const { WebSocket } = from("ws");
    const headers = {};
    for (const visit of [1, 2]) {
      await new Promise((resolve) => {
        const socket = new WebSocket(`ws://${address}/ws`, { headers });
        socket.on("upgrade", (response) => {
          const [cookie] = response.headers["set-cookie"] ?? [];
          if (cookie) headers.Cookie = cookie.split(";")[0];
        });
        socket.on("open", () => socket.send("hello"));
        socket.on("message", (answer) => {
          say({ answer: `${answer}` });
          if (visit === 2) socket.close();
        });
        socket.on("close", (code, reason) => {
          if (visit === 1) say({ code, reason: `${reason}` });
          resolve();
        });
      });
    }
  },
  // It begins by polling, and goes over to a WebSocket with the same session: to the same pod, or it fails.
  async "socket.io"() {
    const { io } = from("socket.io-client");
    const socket = io(`http://${address}`, { withCredentials: true, reconnectionDelay: 50, reconnectionDelayMax: 100 });
    const ask = async () => {
      const answer = await socket.emitWithAck("say", "hello");
      say({ answer, transport: socket.io.engine.transport.name });
    };
    socket.io.on("open", () => say({ begins: socket.io.engine.transport.name }));
    // Either may be first: the session, or the transport.
    socket.on("connect", () => {
      const { engine } = socket.io;
      if (engine.transport.name === "websocket") void ask();
      else engine.once("upgrade", () => void ask());
    });
    socket.on("disconnect", (reason) => say({ reason }));
    socket.on("connect_error", (error) => say({ error: error.message }));
    await new Promise(() => {});
  },
};

await libraries[library]();
