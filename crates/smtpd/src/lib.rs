//! The mail daemon: wires sockets, scripts, spool, queue and delivery together.
