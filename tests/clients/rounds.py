"""Rounds of one client. Usage: rounds.py CLIENT ROUNDS AUTHORITY URL... Round n fetches one URL, resolves its name anew,
and does not try again. Prints one line of JSON: `rounds`, and `failed` with up to five errors."""

import json
import os
import socket
import ssl
import subprocess
import sys
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

client, rounds, authority, *urls = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)


def fetch(url, address):
    parts = urlsplit(url)
    if parts.scheme == "https":
        connection = HTTPSConnection(parts.hostname, parts.port, timeout=10, context=context)
    else:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=10)
    try:
        # Another address would hide a denial.
        connection._create_connection = lambda *_: socket.create_connection((address, parts.port), 10)
        connection.request("GET", parts.path)
        status = connection.getresponse().status
        assert status == 200, status
    finally:
        connection.close()


def python(url):
    found = socket.getaddrinfo(urlsplit(url).hostname, 0, type=socket.SOCK_STREAM)
    fetch(url, found[0][4][0])


def output(*command):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 0, f"{command}: {ended.returncode} {ended.stdout} {ended.stderr}"
    return ended.stdout


def curl(url):
    assert output("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", authority, url) == "200"


def wget(url):
    output("busybox", "wget", "-q", "-O", "/dev/null", url)


def each(url, addresses):
    """Fetches from every address that a resolver printed."""
    assert addresses, "no address"
    for address in addresses:
        fetch(url, address)


def dig(url, *flags):
    name = urlsplit(url).hostname
    each(url, output("dig", "+short", "+tries=1", *flags, name, "A").split())


def dig_tcp(url):
    dig(url, "+tcp")


def getent(url):
    lines = output("getent", "ahosts", urlsplit(url).hostname).splitlines()
    each(url, {line.split()[0] for line in lines})


def nslookup(url):
    _, _, answer = output("busybox", "nslookup", urlsplit(url).hostname).partition("Name:")
    lines = [line.split() for line in answer.splitlines() if line.startswith("Address")]
    each(url, [words[-1] for words in lines])


def resolved(url):
    """Asks systemd-resolved by varlink, as its module for glibc does. EGRESS_TEST_RESOLVED is its folder."""
    call = {"method": "io.systemd.Resolve.ResolveHostname", "parameters": {"name": urlsplit(url).hostname, "family": 2}}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(os.environ["EGRESS_TEST_RESOLVED"] + "/io.systemd.Resolve")
        sock.sendall(json.dumps(call).encode() + b"\0")
        reply = b""
        while not reply.endswith(b"\0"):
            part = sock.recv(65536)
            assert part, "closed"
            reply += part
    reply = json.loads(reply[:-1])
    assert "error" not in reply, reply
    each(url, [socket.inet_ntop(one["family"], bytes(one["address"])) for one in reply["parameters"]["addresses"]])


failed = []
for turn in range(int(rounds)):
    url = urls[turn % len(urls)]
    try:
        globals()[client](url)
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        failed.append(f"{url}: {error!r}")
print(json.dumps({"rounds": int(rounds), "failures": len(failed), "failed": failed[:5]}))
