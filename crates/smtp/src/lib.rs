//! RFC 5321 and its extensions as two pure state machines, server and client: bytes in, events and bytes out.
//!
//! Nothing here opens a socket, reads a clock or starts a thread. A driver feeds what it read, asks for the
//! next event, answers the events that need a decision and writes what the machine has to say:
//!
//! ```
//! use smtp::server::{Event, Server, Settings};
//!
//! let mut machine = Server::new(Settings::new("mx.example.net"));
//! machine.greet(None);
//! machine.feed(b"NOOP\r\n");
//! assert!(matches!(machine.next(), Event::NeedInput));
//! assert_eq!(machine.take_output(), b"220 mx.example.net ESMTP\r\n250 2.0.0 Ok\r\n");
//! ```
//!
//! Splitting or merging the input at any place gives the same events and replies.

pub mod client;
pub mod content;
pub mod proxy_header;
pub mod reply;
pub mod server;

pub use reply::Reply;
