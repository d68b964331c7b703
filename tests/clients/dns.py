"""DNS queries in every way in which resolvers send them. Prints one JSON line for each: who answered, the code, and the
addresses. Usage: dns.py WAY NAME[,NAME...] SERVER..."""

import json
import socket
import struct
import sys
import time

QTYPE = {"A": 1, "AAAA": 28, "TXT": 16, "ANY": 255, "HTTPS": 65, "PTR": 12, "NS": 2, "NULL": 10, "MX": 15, "SRV": 33}


def query(name, qtype, number, size=1232):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.strip(".").split("."))
    edns = b"\0" + struct.pack("!HHIH", 41, size, 0, 0)
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 1) + labels + b"\0" + struct.pack("!HH", qtype, 1) + edns


def skip(message, at):
    while True:
        length = message[at]
        if length & 0xC0 == 0xC0:
            return at + 2
        at += 1 + length
        if length == 0:
            return at


def read(message):
    number, flags, questions, answers, authorities = struct.unpack("!HHHHH", message[:10])
    at = 12
    for _ in range(questions):
        at = skip(message, at) + 4
    found = []
    kinds = []
    for _ in range(answers + authorities):
        at = skip(message, at)
        kind, _, _, length = struct.unpack("!HHIH", message[at : at + 10])
        data = message[at + 10 : at + 10 + length]
        at += 10 + length
        kinds.append(kind)
        if kind == 1:
            found.append(socket.inet_ntop(socket.AF_INET, data))
        if kind == 28:
            found.append(socket.inet_ntop(socket.AF_INET6, data))
    whole = len(message)
    shown = {"id": number, "code": flags & 15, "cut": bool(flags & 0x200), "length": whole}
    return {**shown, "kinds": kinds, "addresses": found}


def family(server):
    return socket.AF_INET6 if ":" in server else socket.AF_INET


def say(source, message, **more):
    print(json.dumps({"from": source[0], "port": source[1], **read(message), **more}), flush=True)


def unconnected(name, qtype, servers):
    """One socket for all servers, as musl does it."""
    sock = socket.socket(family(servers[0]), socket.SOCK_DGRAM)
    sock.settimeout(5)
    for number, server in enumerate(servers):
        sock.sendto(query(name, qtype, number), (server, 53))
    for _ in servers:
        message, source = sock.recvfrom(65535)
        say(source, message)


def connected(name, qtype, servers):
    """A connected socket for each server, as glibc does it. Prints the peer that the socket shows, and the time that the
    answer took in milliseconds."""
    for server in servers:
        sock = socket.socket(family(server), socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.connect((server, 53))
        sent = time.monotonic()
        sock.send(query(name, qtype, 7))
        message = sock.recv(65535)
        took = int((time.monotonic() - sent) * 1000)
        assert sock.getpeername()[:2] == (server, 53), sock.getpeername()
        say(sock.getpeername(), message, took=took)


def tcp(name, qtype, servers, count=2):
    """Two queries in one write on each connection."""
    for server in servers:
        sock = socket.create_connection((server, 53), 5)
        every = [query(name, qtype, number) for number in range(1, 1 + count)]
        sock.sendall(b"".join(struct.pack("!H", len(q)) + q for q in every))
        stream = sock.makefile("rb")
        for _ in every:
            (length,) = struct.unpack("!H", stream.read(2))
            say(sock.getpeername(), stream.read(length))


def pipelined(name, qtype, servers):
    """Many queries in one write."""
    tcp(name, qtype, servers, 200)


def stalled(name, qtype, servers, connections=128, count=64):
    """Connections that send queries and take no replies, until the process is killed."""
    name = query(name, qtype, 7)
    every = []
    for server in servers:
        for _ in range(connections):
            sock = socket.socket(family(server), socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(5)
            sock.connect((server, 53))
            sock.sendall((struct.pack("!H", len(name)) + name) * count)
            every.append(sock)
    print(json.dumps({"connections": len(every)}), flush=True)
    time.sleep(60)


def reused(name, qtype, servers):
    """Each server in turn from one socket, again and again."""
    sock = socket.socket(family(servers[0]), socket.SOCK_DGRAM)
    sock.settimeout(5)
    for number, server in enumerate(servers * 3):
        sock.sendto(query(name, qtype, number), (server, 53))
        message, source = sock.recvfrom(65535)
        say(source, message)


def direct(name, _, servers):
    """A datagram to a port of the agent itself."""
    sock = socket.socket(family(servers[0]), socket.SOCK_DGRAM)
    sock.settimeout(5)
    try:
        sock.sendto(query(name, 1, 1), (servers[0], int(servers[1])))
        print(json.dumps({"errno": 0}))
    except OSError as error:
        print(json.dumps({"errno": error.errno}))


if __name__ == "__main__":
    way, names, *servers = sys.argv[1:]
    way, _, kind = way.partition(":")
    for name in names.split(","):
        globals()[way](name, QTYPE[kind or "A"], servers)
