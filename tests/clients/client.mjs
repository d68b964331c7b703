// HTTP calls with Node: the modules http and http2, and fetch. See README.md.
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';

const BODY = 'x'.repeat(300_000);

function byHttp(method, url, host) {
  return new Promise((resolve, reject) => {
    const library = url.startsWith('https:') ? https : http;
    const headers = host === '-' ? {} : { host };
    const request = library.request(url, { method, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part) => { text += part; });
      response.on('error', reject);
      response.on('end', () => resolve({
        version: response.httpVersion, status: response.statusCode, answer: response.headers['x-answer'], text,
      }));
    });
    request.on('error', reject);
    request.end(method === 'POST' ? BODY : undefined);
  });
}

function byHttp2(method, url, host) {
  return new Promise((resolve, reject) => {
    const { origin, pathname, search, host: own } = new URL(url);
    const session = http2.connect(origin);
    session.on('error', reject);
    const authority = host === '-' ? own : host;
    const stream = session.request(
      { ':method': method, ':path': pathname + search, ':authority': authority },
      { endStream: method !== 'POST' },
    );
    let head = {};
    let text = '';
    stream.setEncoding('utf8');
    stream.on('response', (headers) => { head = headers; });
    stream.on('data', (part) => { text += part; });
    stream.on('error', reject);
    stream.on('end', () => {
      session.close();
      resolve({ version: '2', status: head[':status'], answer: head['x-answer'], text });
    });
    if (method === 'POST') stream.end(BODY);
  });
}

async function byFetch(method, url) {
  const body = method === 'POST' ? BODY : undefined;
  const response = await fetch(url, { method, body });
  const text = await response.text();
  return { version: '1.1', status: response.status, answer: response.headers.get('x-answer'), text };
}

const kinds = { http: byHttp, http2: byHttp2, fetch: byFetch };
for (const call of process.argv.slice(2)) {
  const [name, kind, method, url, host] = call.split(' ');
  const start = performance.now();
  let got;
  try {
    got = await kinds[kind](method, url, host);
  } catch (error) {
    const causes = [error, error.cause, ...(error.cause?.errors ?? error.errors ?? [])];
    got = { version: '', status: 0, text: causes.filter(Boolean).map(String).join('; ') };
  }
  const ms = Math.round(performance.now() - start);
  console.log(JSON.stringify({ name, answer: '', ...got, ms, text: got.text.slice(0, 600) }));
}
// Kept connections of fetch would hold the process.
process.exit(0);
