"""Connections that stay idle. Usage: pooled.py TCP_ADDRESS HTTP_ADDRESS HOST. Opens one to port 7 and one to port 80,
uses both and prints "idle". After a line of standard input it uses them again, closes them, connects to the same
addresses anew, and prints one line of JSON with what failed."""

import json
import socket
import sys
from http.client import HTTPConnection

echo, web, host = sys.argv[1:]
failed = []


def attempt(what, call):
    try:
        return call()
    except (OSError, AssertionError) as error:
        failed.append(f"{what}: {error!r}")


def said(sock):
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"


def fetched(connection):
    connection.request("GET", "/get", headers={"Host": host})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, (response.status, body)


def opened():
    sock = socket.create_connection((echo, 7), 5)
    said(sock)
    connection = HTTPConnection(web, 80, timeout=5)
    fetched(connection)
    return sock, connection


pool = attempt("at first", opened)
print(json.dumps("idle"), flush=True)
sys.stdin.readline()
if pool:
    attempt("idle TCP", lambda: said(pool[0]))
    attempt("idle HTTP", lambda: fetched(pool[1]))
    for one in pool:
        one.close()
attempt("again", opened)
print(json.dumps(failed), flush=True)
