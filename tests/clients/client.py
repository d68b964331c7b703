"""HTTP calls with Python: urllib, requests, httpx (HTTP/1.1 and HTTP/2) and aiohttp. See README.md."""

import asyncio
import json
import sys
import time

BODY = b"x" * 300_000


def body_of(method):
    return BODY if method == "POST" else None


def headers_of(host):
    return {} if host == "-" else {"Host": host}


def by_urllib(method, url, host):
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, body_of(method), headers_of(host), method=method)
    try:
        response = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return "1.1", response.status, response.headers.get("x-answer"), response.read().decode()


def by_requests(method, url, host):
    import requests

    got = requests.request(method, url, data=body_of(method), headers=headers_of(host), timeout=20)
    return "1.1", got.status_code, got.headers.get("x-answer"), got.text


def by_httpx(method, url, host):
    import httpx

    got = httpx.request(method, url, content=body_of(method), headers=headers_of(host), timeout=20)
    return got.http_version, got.status_code, got.headers.get("x-answer"), got.text


def by_httpx2(method, url, host):
    import httpx

    # With http1 off, a plain URL is asked with prior knowledge.
    with httpx.Client(http1=False, http2=True, timeout=20) as client:
        got = client.request(method, url, content=body_of(method), headers=headers_of(host))
        return got.http_version, got.status_code, got.headers.get("x-answer"), got.text


def by_aiohttp(method, url, host):
    import aiohttp

    async def call():
        async with aiohttp.ClientSession() as session:
            async with session.request(method, url, data=body_of(method), headers=headers_of(host)) as got:
                return "1.1", got.status, got.headers.get("x-answer"), await got.text()

    return asyncio.run(call())


KINDS = {
    "urllib": by_urllib,
    "requests": by_requests,
    "httpx": by_httpx,
    "httpx2": by_httpx2,
    "aiohttp": by_aiohttp,
}

for argument in sys.argv[1:]:
    name, kind, method, url, host = argument.split(" ")
    start = time.monotonic()
    try:
        version, status, answer, text = KINDS[kind](method, url, host)
    except Exception as error:  # each library has its own
        version, status, answer, text = "", 0, "", repr(error)
    ms = round((time.monotonic() - start) * 1000)
    line = {"name": name, "version": version, "status": status, "answer": answer or "", "ms": ms, "text": text[:600]}
    print(json.dumps(line), flush=True)
