"""Asks many times from one port that another process uses too. Usage: shared_port.py PORT COUNT FIRST NAME SERVER. The
ids of the queries begin with FIRST. Starts at the first line of standard input, ends with it, and then prints one line of
JSON: [id, code] of each reply that this socket got, whoever asked."""

import json
import select
import socket
import sys

from dns import query, read

port, count, first = (int(word) for word in sys.argv[1:4])
name, server = sys.argv[4:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("0.0.0.0", port))
replies = []


def take(wait):
    while select.select([sock], [], [], wait)[0]:
        reply = read(sock.recv(4096))
        replies.append([reply["id"], reply["code"]])
        wait = 0


print(json.dumps("bound"), flush=True)
sys.stdin.readline()
for nth in range(count):
    sock.sendto(query(name, 1, first + nth), (server, 53))
    take(0.002)
print(json.dumps("asked"), flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    take(0.05)
take(0)
print(json.dumps(replies), flush=True)
