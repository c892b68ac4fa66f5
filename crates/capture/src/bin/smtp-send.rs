//! Sends one message, on the same `smtp::client` machine as the mail daemon. For first steps and scripts.

use clap::Parser;
use smtp::client::{Client, Envelope, Event, Settings, StartTls};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sends one message.
#[derive(Parser)]
#[command(
    name = "smtp-send",
    version,
    after_help = "\
Examples:
  smtp-send --server 127.0.0.1:2525 --from a@example.com --to b@example.net --subject Hello
  smtp-send --server 127.0.0.1:2525 --from a@example.com --to b@example.net --file message.eml

Exit status: 0 accepted; 1 refused or not connected; 2 usage."
)]
struct Arguments {
    /// Host and port
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2525")]
    server: String,
    /// Envelope and header sender
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    from: String,
    /// Recipient (repeatable: one transaction each)
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<String>,
    /// Subject of the generated message
    #[arg(long, value_name = "TEXT", default_value = "Hello")]
    subject: String,
    /// Text of the generated message
    #[arg(long, value_name = "TEXT", default_value = "A message of smtp-send.")]
    body: String,
    /// Send this file instead of a generated message
    #[arg(long, value_name = "FILE")]
    file: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("smtp-send: {}: {error}", arguments.server);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let content = match &arguments.file {
        Some(path) => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => generate(arguments).into_bytes(),
    };
    let sender = smtp::client::address(&arguments.from)?;
    let mut stream = TcpStream::connect(&arguments.server)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let settings = Settings {
        helo: "localhost".to_owned(),
        protocol: smtp::client::Protocol::Smtp,
        pipelining: true,
        starttls: StartTls::Never,
        ..Settings::default()
    };
    let mut client = Client::new(settings);
    let mut left = arguments.to.iter();
    let mut current = String::new();
    let mut all_taken = true;
    loop {
        let event = client.next();
        stream.write_all(&client.take_output())?;
        match event {
            Event::NeedInput(_) => {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                client.feed(&buffer[..count]);
            }
            Event::SendContent => {
                client.content(&content);
                client.end_content();
            }
            Event::Finished(outcome) if current.is_empty() => {
                println!("refused in state {}: {}", outcome.state, text(&outcome));
                return Ok(false);
            }
            Event::Ready | Event::Finished(_) => {
                if let Event::Finished(outcome) = &event {
                    all_taken &= outcome.is_delivered();
                    println!("{current}: {}", text(outcome));
                }
                let Some(to) = left.next().filter(|_| client.is_reusable()) else {
                    client.quit();
                    continue;
                };
                current.clone_from(to);
                client.send(Envelope {
                    sender: sender.clone(),
                    recipient: smtp::client::address(to)?,
                    bytes: content.len() as u64,
                    has_8bit: !content.is_ascii(),
                    ..Envelope::default()
                });
            }
            Event::StartTls => return Err("the server started TLS unasked".into()),
            Event::Close => return Ok(all_taken && left.next().is_none()),
        }
    }
}

fn text(outcome: &smtp::client::Outcome) -> String {
    match &outcome.result {
        Ok(reply) => reply.to_string(),
        Err(failure) => failure.to_string(),
    }
}

fn generate(arguments: &Arguments) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(
        "From: <{}>\r\nTo: <{}>\r\nSubject: {}\r\nMessage-ID: <{}.{}@smtp-send.invalid>\r\n\r\n{}\r\n",
        arguments.from,
        arguments.to.join(">, <"),
        arguments.subject,
        now.as_nanos(),
        std::process::id(),
        arguments.body
    )
}
