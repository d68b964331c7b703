// As rounds.py, by Node. CLIENT is `lookup` (getaddrinfo) or `cares` (dns.resolve4).
import dns from 'node:dns';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';

const [client, rounds, authority, ...urls] = process.argv.slice(2);
const ca = fs.readFileSync(authority);

function lookup(host, options, done) {
  const first = (error, addresses) => {
    if (error) return done(error);
    const found = { address: addresses[0].address ?? addresses[0], family: addresses[0].family ?? 4 };
    return options.all ? done(null, [found]) : done(null, found.address, found.family);
  };
  if (client === 'cares') dns.resolve4(host, first);
  else dns.lookup(host, { all: true }, first);
}

function get(url) {
  return new Promise((resolve, reject) => {
    const library = url.startsWith('https:') ? https : http;
    const request = library.get(url, { agent: false, ca, lookup, timeout: 10_000 }, (response) => {
      response.resume();
      response.on('error', reject);
      response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(response.statusCode))));
    });
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.on('error', reject);
  });
}

const failed = [];
for (let turn = 0; turn < Number(rounds); turn += 1) {
  const url = urls[turn % urls.length];
  try {
    await get(url);
  } catch (error) {
    failed.push(`${url}: ${error}`);
  }
}
console.log(JSON.stringify({ rounds: Number(rounds), failures: failed.length, failed: failed.slice(0, 5) }));
