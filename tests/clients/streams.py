"""A WebSocket (websockets) and server-sent events (httpx) through the gate.

Arguments: a listed host and one that is not listed, both at listed addresses. Prints one line of JSON for each step.
"""

import asyncio
import json
import os
import sys

import httpx
import websockets

HOST, OTHER = sys.argv[1:]


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


async def socket():
    uri = f"ws://{HOST}/ws"
    async with websockets.connect(uri, max_size=4 << 20) as ws:
        await ws.send("hello")
        say("echo", got=await ws.recv(), header=ws.response.headers.get("x-answer"))
        pong = await ws.ping()
        say("ping", answered=await asyncio.wait_for(pong, 10) >= 0)
        big = os.urandom(1 << 20)
        await ws.send(big)
        say("1 MiB", same=await ws.recv() == big)
        small = [str(number) for number in range(200)]
        for one in small:
            await ws.send(one)
        say("many", same=[await ws.recv() for _ in small] == small)
        await ws.close(4001, "bye")
    async with httpx.AsyncClient() as client:
        codes = await client.get(f"http://{HOST}/events/closed")
        say("closed by the client", server_saw=4001 in codes.json())
    async with websockets.connect(uri) as ws:
        await ws.send("close 4002")
        await ended("closed by the server", ws)
    async with websockets.connect(uri) as ws:
        await ws.send("reset")
        await ended("reset by the server", ws)
    # Longer than the timeout of the route, which ends with the upgrade.
    async with websockets.connect(uri) as ws:
        await asyncio.sleep(0.7)
        await ws.send("still here")
        say("longer than the timeout", got=await ws.recv())
    try:
        await websockets.connect(f"ws://{OTHER}/ws")
        say("not listed", status=101)
    except websockets.InvalidStatus as error:
        say("not listed", status=error.response.status_code)


async def ended(step, ws):
    try:
        await asyncio.wait_for(ws.recv(), 10)
    except websockets.ConnectionClosed as error:
        close = error.rcvd
        say(step, code=close.code if close else None, reason=close.reason if close else None)


async def events(kind, **options):
    key = f"{HOST}-{kind}"
    async with httpx.AsyncClient(timeout=20, **options) as client:
        got = []
        async with client.stream("GET", f"http://{HOST}/events", params={"key": key}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    got.append(line[6:])
                    # The next event is sent only now.
                    number = len(got) - 1
                    await client.post(f"http://{HOST}/ack", params={"key": key, "id": number})
        say(f"events over {kind}", got=got, version=response.http_version)


async def main():
    await socket()
    await events("HTTP/1.1")
    await events("HTTP/2", http1=False, http2=True)


asyncio.run(main())
