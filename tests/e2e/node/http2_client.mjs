// HTTP/2 by Node's own client. Usage: node http2_client.mjs PORT. Scenes on one connection without TLS; prints one line of
// JSON for each.
import http2 from 'node:http2';

const session = http2.connect(`http://127.0.0.1:${process.argv[2]}`);
session.on('error', error => { console.error(error); process.exit(1); });

// Resolves with what came of a request: status, size of the body, trailers, code of a reset.
function ask(fields, body) {
  return new Promise(resolve => {
    const stream = session.request(fields, {endStream: body === undefined});
    const seen = {status: null, size: 0, trailers: {}, informational: []};
    stream.on('response', head => { seen.status = head[':status']; });
    stream.on('headers', head => { seen.informational.push(head[':status']); });
    stream.on('trailers', fields => { seen.trailers = {...fields}; });
    stream.on('data', piece => { seen.size += piece.length; });
    stream.on('error', () => {});
    stream.on('close', () => resolve({...seen, code: stream.rstCode}));
    if (body !== undefined) stream.end(body);
  });
}

const say = (scene, said) => console.log(JSON.stringify({scene, said}));

const many = [];
for (let at = 0; at < 40; at += 1) many.push(ask({':path': at % 2 ? '/small' : '/large'}));
const answers = await Promise.all(many);
say('many', {
  statuses: [...new Set(answers.map(answer => answer.status))],
  sizes: [...new Set(answers.map(answer => answer.size))].sort((a, b) => a - b),
});
say('upload', await ask({':path': '/small', ':method': 'POST'}, Buffer.alloc(300_000, 'z')));
say('expect', await ask({':path': '/small', ':method': 'POST', 'expect': '100-continue'}, Buffer.alloc(10)));

const events = session.request({':path': '/events', 'accept': 'text/event-stream'});
events.setEncoding('utf8');
let text = '';
await new Promise(resolve => events.on('data', piece => { text += piece; if (text.includes('first')) resolve(); }));
await new Promise(resolve => session.ping(error => { say('ping', error === null); resolve(); }));
say('events', text);
events.close(http2.constants.NGHTTP2_CANCEL);
await new Promise(resolve => events.on('close', resolve));
say('after', (await ask({':path': '/small'})).status);
session.close();
