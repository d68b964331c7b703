"""Asks with sockets of one cgroup and from another. Usage: moved.py PROCS SERVER NAME... Prints one line of JSON: the
response codes for each NAME with sockets that were made before the process moved to the cgroup with the file PROCS
(connected, unconnected), and with sockets of the time after it."""

import json
import os
import socket
import sys

from dns import query, read

procs, server, *names = sys.argv[1:]


def made():
    connected, unconnected = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    connected.connect((server, 53))
    for sock in connected, unconnected:
        sock.settimeout(5)
    return connected, unconnected


def codes(connected, unconnected):
    found = {}
    for name in names:
        connected.send(query(name, 1, 1))
        unconnected.sendto(query(name, 1, 2), (server, 53))
        found[name] = [read(sock.recv(4096))["code"] for sock in (connected, unconnected)]
    return found


before = made()
with open(procs, "w") as file:
    file.write(str(os.getpid()))
# Passed between processes, as a service that accepts sockets gets them.
left, right = socket.socketpair(socket.AF_UNIX)
socket.send_fds(left, [b"x"], [sock.fileno() for sock in before])
_, descriptors, _, _ = socket.recv_fds(right, 1, 2)
passed = [socket.socket(fileno=one) for one in descriptors]
for sock in passed:
    sock.settimeout(5)
print(json.dumps({"before": codes(*passed), "after": codes(*made())}))
