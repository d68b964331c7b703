"""Servers behind the gate: WebSocket and server-sent events (aiohttp), and gRPC (grpcio).

Arguments: the addresses to listen at. WebSocket and events are at port 80, gRPC at port 50051. Prints "ready", and ends
with its standard input.
"""

import asyncio
import concurrent.futures
import sys
import threading

import grpc
from aiohttp import WSMsgType, web

# The codes with which clients have closed.
CLOSED = []

# Numbers of events that a client has acknowledged, by stream.
ACKNOWLEDGED = {}


async def socket(request):
    """Echoes. `close CODE` makes the server close with that code, `reset` makes it reset the connection."""
    ws = web.WebSocketResponse(max_msg_size=4 << 20, autoping=True)
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.data.startswith("close "):
            await ws.close(code=int(message.data[6:]), message=b"as asked")
        elif message.data == "reset":
            request.transport.abort()
        else:
            await ws.send_str(message.data)
    CLOSED.append(ws.close_code)
    return ws


async def closed(request):
    """The codes with which clients have closed."""
    return web.json_response(CLOSED)


async def events(request):
    """Five events, each sent once the client has acknowledged the one before."""
    key = request.query["key"]
    ACKNOWLEDGED[key] = asyncio.Queue()
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    await response.prepare(request)
    for number in range(5):
        await response.write(f"id: {number}\ndata: event {number}\n\n".encode())
        got = await asyncio.wait_for(ACKNOWLEDGED[key].get(), 10)
        assert got == number, (got, number)
    await response.write_eof()
    return response


async def acknowledge(request):
    await ACKNOWLEDGED[request.query["key"]].put(int(request.query["id"]))
    return web.Response(text="ok")


async def serve(addresses):
    app = web.Application()
    app.add_routes([web.get("/ws", socket), web.get("/events", events), web.post("/ack", acknowledge)])
    app.add_routes([web.get("/events/closed", closed)])
    runner = web.AppRunner(app)
    await runner.setup()
    for address in addresses:
        await web.TCPSite(runner, address, 80).start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


class Calls(grpc.GenericRpcHandler):
    """Methods of `test.Echo` whose messages are bytes."""

    def __init__(self):
        self.flaky = {}
        self.cancelled = threading.Event()

    def service(self, details):
        name = details.method.rsplit("/", 1)[-1]
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Slow": grpc.unary_unary_rpc_method_handler(self.slow),
            "Sleep": grpc.unary_unary_rpc_method_handler(self.slow),
            "Flaky": grpc.unary_unary_rpc_method_handler(self.fail_once),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Cancelled": grpc.unary_unary_rpc_method_handler(self.was_cancelled),
            "Many": grpc.unary_stream_rpc_method_handler(self.many),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }
        return kinds.get(name)

    def unary(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata([("seen", seen.get("x-gate", ""))])
        context.set_trailing_metadata([("length", str(len(request)))])
        return request

    def slow(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(20)
        return request

    def fail_once(self, request, context):
        self.flaky[request] = self.flaky.get(request, 0) + 1
        if self.flaky[request] == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the first time")
        return str(self.flaky[request]).encode()

    def fail(self, request, context):
        context.set_trailing_metadata([("detail-bin", b"\x00\x01\xff")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nöt now 100%")

    def was_cancelled(self, request, context):
        return b"yes" if self.cancelled.wait(10) else b"no"

    def many(self, request, context):
        if request == b"for ever":
            context.add_callback(self.cancelled.set)
            yield b"first"
            self.cancelled.wait(20)
            return
        for number in range(int(request)):
            yield str(number).encode()

    def sum(self, requests, context):
        return str(sum(len(one) for one in requests)).encode()

    def chat(self, requests, context):
        for one in requests:
            yield one


def main():
    addresses = sys.argv[1:]
    limits = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=limits)
    server.add_generic_rpc_handlers([Calls()])
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        server.add_insecure_port(f"{host}:50051")
    server.start()
    asyncio.run(serve(addresses))
    server.stop(None)


main()
