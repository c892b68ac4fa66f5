//! The network below SMTP: resolver, next-hop choice, TLS and dialling from a source address.
