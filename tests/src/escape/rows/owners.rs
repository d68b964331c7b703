//! The owner of a socket, its age, and its surroundings: older and borrowed sockets, and the agent
//! itself.

use super::{ACCEPTED, CONNECT, EGRESS, NO_ROUTE, SENDMSG};
use crate::escape::table::Over::Both;
use crate::escape::table::{Between, Caller, Expect, Path, Scenario, Trial, path};
use crate::escape::{forged, served, staged, tcp};

const CREATED_ELSEWHERE: &str = "a socket is its creator's: one made outside the gate, inherited, passed over a Unix socket or brought along, stays outside; hand none in";

pub(super) static SOCKETS: &[Path] = &[
    path("older-socket", Both, staged::socket_then_connect, CONNECT, "a TCP socket made before the attach, connect after it").staged(Between::Attach),
    path("older-connection", Both, staged::connected_then_send, EGRESS, "a TCP connection made before the attach").staged(Between::Attach),
    path("older-connection-bound", Both, served::older_connection_bound, EGRESS, "the same, after bind() to the proxy's port").staged(Between::Attach),
    path("older-server", Both, served::older_server, EGRESS, "a server that listened before the attach answers a caller that no rule lists").staged(Between::Attach).called(Caller::Connections).expect(Expect::Works(ACCEPTED)),
    path("older-listener-connect", Both, served::older_listener_then_connect, CONNECT, "a listener made before the attach, AF_UNSPEC, connect").staged(Between::Attach),
    path("older-datagram-connected", Both, staged::datagram_connected_then_send, EGRESS, "a UDP socket connected before the attach, send").staged(Between::Attach),
    path("older-datagram", Both, staged::datagram_then_send_to, SENDMSG, "a UDP socket made before the attach, sendto").staged(Between::Attach),
    path("moved-out-with-socket", Both, staged::socket_then_connect, CONNECT, "a task moved out connects a socket that it made inside").staged(Between::MoveOut),
    path("moved-out", Both, staged::pause_then_all, "", "a task moved out makes a socket").staged(Between::MoveOut).expect(Expect::Open("moving a task needs write access to the cgroup tree: mount it read-only or not at all in workloads")),
    path("moved-in-with-socket", Both, staged::socket_then_connect, "", "a task moved in connects a socket that it made outside; a socket inherited or passed by SCM_RIGHTS is the same").staged(Between::MoveIn).expect(Expect::Open(CREATED_ELSEWHERE)),
    path("nested-cgroup", Both, tcp::connect, CONNECT, "in a cgroup made below the workload's own").by(Trial::Suite(Scenario::Nested)),
];

pub(super) static AGENT: &[Path] = &[
    path("proxy-port", Both, tcp::proxy_port, CONNECT, "the proxy's port dialled directly: 127.0.0.1, 127.0.0.2, ::1, mapped forms, the unspecified and the node's address").uncontrolled(NO_ROUTE),
    path("proxy-port-bound", Both, forged::take_proxy_port, "bind4/6", "a workload listens at the proxy's port").uncontrolled(NO_ROUTE),
    path("no-origin", Both, tcp::connect, "the proxy", "a process outside the gate dials the proxy: a connection without an origin is closed").by(Trial::Suite(Scenario::NoOrigin)),
    path("flow-table-flooded", Both, tcp::connect, CONNECT, "the table of redirected flows is flooded: the oldest give way").by(Trial::Suite(Scenario::FlowsFlooded)),
    path("agent-killed", Both, tcp::connect, CONNECT, "the agent is killed: unlisted and redirected connects").by(Trial::Suite(Scenario::AgentKilled)),
    path("proxy-port-taken", Both, tcp::connect, CONNECT, "the agent is killed and another program listens at its port").by(Trial::Suite(Scenario::PortTaken)),
];
