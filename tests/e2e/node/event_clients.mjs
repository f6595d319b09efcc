// Reads one event stream with a published client, and writes each event that the client dispatches as a line of JSON.
//
// event_clients.mjs <client> <url>, with the packages in $NODE_MODULES; the last line is "end".

import { createRequire } from "node:module";

const [client, url] = process.argv.slice(2);
const from = createRequire(`${process.env.NODE_MODULES}/`);
const say = (id, data) => console.log(JSON.stringify({ id, data }));
const headers = { Accept: "text/event-stream", "Last-Event-ID": "0" };

async function chunks(take) {
  const response = await fetch(url, { headers });
  for await (const chunk of response.body) take(chunk);
}

const clients = {
  async "eventsource"() {
    const { EventSource } = from("eventsource");
    await new Promise((resolve) => {
      const withHeaders = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } });
      const events = new EventSource(url, { fetch: withHeaders });
      events.onmessage = (event) => say(event.lastEventId, event.data);
      events.onerror = () => resolve(events.close());
    });
  },
  async "eventsource-parser"() {
    const { createParser } = from("eventsource-parser");
    const parser = createParser({ onEvent: (event) => say(event.id ?? "", event.data) });
    const decoder = new TextDecoder();
    await chunks((chunk) => parser.feed(decoder.decode(chunk, { stream: true })));
  },
  // In a page it calls `fetch` of the window; here its own parser is given what that would return.
  async "fetch-event-source"() {
    const { getBytes, getLines, getMessages } = from("@microsoft/fetch-event-source/lib/cjs/parse.js");
    const response = await fetch(url, { headers });
    const ignore = () => {};
    await getBytes(response.body, getLines(getMessages(ignore, ignore, (event) => say(event.id, event.data))));
  },
};

await clients[client]();
console.log("end");
