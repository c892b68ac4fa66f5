//! The library of scripts, run by `hsh`: the known-answer programs, and the functions and classes that talk to servers
//! against real ones on loopback. A server that is missing fails the test.

mod calls;
mod dns;
mod ffi;
mod http;
mod keys;
mod ldap;
mod programs;
mod rate;
mod servers;
mod sockets;
