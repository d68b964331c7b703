"""gRPC calls with grpcio: every kind of call, and what the gate answers itself.

Arguments: a listed target, and an authority that is not listed. Prints one line of JSON for each step.
"""

import json
import queue
import sys
import time

import grpc

LIMITS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


def failure(step, call):
    start = time.monotonic()
    try:
        call()
        say(step, code="OK")
    except grpc.RpcError as error:
        trailers = {key: repr(value) for key, value in error.trailing_metadata() or ()}
        ms = round((time.monotonic() - start) * 1000)
        say(step, code=error.code().name, details=error.details(), trailers=trailers, ms=ms)


def main():
    target, other = sys.argv[1:]
    channel = grpc.insecure_channel(target, LIMITS)
    method = "/test.Echo/"

    reply, call = channel.unary_unary(method + "Unary").with_call(b"hello", timeout=20)
    say("unary", reply=reply.decode(), seen=dict(call.initial_metadata()).get("seen"),
        length=dict(call.trailing_metadata()).get("length"))
    big = b"m" * (4 << 20)
    say("4 MiB", same=channel.unary_unary(method + "Unary")(big, timeout=20) == big)
    many = list(channel.unary_stream(method + "Many")(b"1000", timeout=20))
    say("server stream", count=len(many), last=many[-1].decode())
    total = channel.stream_unary(method + "Sum")((b"x" * 1000 for _ in range(1000)), timeout=20)
    say("client stream", total=int(total))

    # Each message is sent once the answer to the one before has arrived.
    sending = queue.Queue()
    answers = channel.stream_stream(method + "Chat")(iter(sending.get, None), timeout=20)
    got = []
    for number in range(50):
        sending.put(str(number).encode())
        got.append(next(answers).decode())
    sending.put(None)
    say("both streams", same=got == [str(n) for n in range(50)], rest=len(list(answers)), code=answers.code().name)

    failure("status", lambda: channel.unary_unary(method + "Fail")(b"", timeout=20))
    failure("unknown method", lambda: channel.unary_unary(method + "Nothing")(b"", timeout=20))
    failure("deadline", lambda: channel.unary_unary(method + "Sleep")(b"", timeout=0.3))
    failure("timeout of the route", lambda: channel.unary_unary(method + "Slow")(b"", timeout=20))
    say("retry", attempts=channel.unary_unary(method + "Flaky")(target.encode(), timeout=20).decode())
    failure("abort", lambda: channel.unary_unary(method + "Abort")(b"", timeout=20))
    failure("no route", lambda: channel.unary_unary("/other.Service/Call")(b"", timeout=20))

    endless = channel.unary_stream(method + "Many")(b"for ever", timeout=20)
    first = next(endless).decode()
    endless.cancel()
    say("cancel", first=first, server_saw=channel.unary_unary(method + "Cancelled")(b"", timeout=20).decode())

    denied = grpc.insecure_channel(target, [("grpc.default_authority", other)])
    failure("authority that is not listed", lambda: denied.unary_unary(method + "Unary")(b"", timeout=20))
    unlisted = grpc.insecure_channel(other + ":50051")
    failure("host that is not listed", lambda: unlisted.unary_unary(method + "Unary")(b"", timeout=20))


main()
