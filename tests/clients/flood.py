"""Many names below a domain. Usage: flood.py COUNT PREFIX DOMAIN SERVER. Each name has PREFIX and a number before DOMAIN.
Prints one line of JSON: how many replies had each code."""

import json
import socket
import sys

from dns import query, read

count, prefix, domain, server = sys.argv[1:]
codes = {}
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((server, 53))
sock.settimeout(10)
# At once. A loaded machine answers these within the time limit of a query.
WINDOW = 32
for first in range(0, int(count), WINDOW):
    some = range(first, min(first + WINDOW, int(count)))
    for number in some:
        sock.send(query(f"{prefix}{number}.{domain}", 1, number & 0xFFFF))
    for _ in some:
        code = read(sock.recv(4096))["code"]
        codes[code] = codes.get(code, 0) + 1
print(json.dumps(codes))
