//! A small SMTP server that writes each message as an `.eml` file: the next hop of the playground and of tests.
//!
//! It drives the same `smtp::server` machine as the mail daemon. With `--reply` it can be told to answer as a
//! difficult peer does, which tests of retries and bounces use.

use clap::Parser;
use smtp::Reply;
use smtp::server::{Event, Server, Settings};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Receives mail and writes each message as an .eml file.
#[derive(Parser)]
#[command(
    name = "smtp-capture",
    version,
    after_help = "\
Examples:
  smtp-capture --listen 127.0.0.1:2526 --dir ./captured
  smtp-capture --listen 127.0.0.1:2526 --dir ./captured --reply RCPT=550,451,250
  smtp-capture --listen 127.0.0.1:2526 --dir ./captured --reply EOD=close

--reply PHASE=LIST answers the n-th command of that phase with the n-th item; the last item repeats. Phases:
CONNECT MAIL RCPT DATA EOD. Items: a reply code, close (close the connection), or stall (say nothing more).

Exit status: 0 told to stop; 1 the address or the folder cannot be used; 2 usage."
)]
struct Arguments {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Folder for the messages; created when missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Scripted answers, see below (repeatable)
    #[arg(long, value_name = "PHASE=LIST", value_parser = parse_script)]
    reply: Vec<Script>,
    /// Say nothing about the messages
    #[arg(long)]
    quiet: bool,
}

/// Scripted answers of one phase.
#[derive(Clone, Debug)]
struct Script {
    phase: String,
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Code(u16),
    Close,
    Stall,
}

fn parse_script(text: &str) -> Result<Script, String> {
    let (phase, list) = text.split_once('=').ok_or("expected PHASE=LIST")?;
    let phase = phase.to_ascii_uppercase();
    if !["CONNECT", "MAIL", "RCPT", "DATA", "EOD"].contains(&phase.as_str()) {
        return Err(format!("unknown phase '{phase}', expected CONNECT, MAIL, RCPT, DATA or EOD"));
    }
    let answer = |word: &str| match word {
        "close" => Ok(Answer::Close),
        "stall" => Ok(Answer::Stall),
        code => match code.parse::<u16>() {
            Ok(code) if (200..600).contains(&code) => Ok(Answer::Code(code)),
            _ => Err(format!("'{code}' found, expected a reply code, close or stall")),
        },
    };
    Ok(Script { phase, answers: list.split(',').map(answer).collect::<Result<_, _>>()? })
}

struct Capture {
    dir: PathBuf,
    quiet: bool,
    scripts: Vec<(Script, AtomicU64)>,
    count: AtomicU64,
}

impl Capture {
    /// The scripted answer of the next command of a phase.
    fn answer(&self, phase: &str) -> Option<Answer> {
        let (script, used) = self.scripts.iter().find(|(script, _)| script.phase == phase)?;
        let at = used.fetch_add(1, Ordering::Relaxed) as usize;
        script.answers.get(at).or(script.answers.last()).copied()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smtp-capture: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let dir = arguments.dir;
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| format!("{}: {error}", arguments.listen))?;
    let scripts = arguments.reply.into_iter().map(|script| (script, AtomicU64::new(0))).collect();
    let capture = Arc::new(Capture { dir, quiet: arguments.quiet, scripts, count: AtomicU64::new(0) });
    println!("smtp-capture: listening on {}, writing to {}", arguments.listen, capture.dir.display());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| format!("signals: {error}"))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let capture = capture.clone();
                tokio::spawn(async move {
                    // A client that breaks off is the client's business.
                    let _ = session(stream, &capture).await;
                });
            }
            _ = terminate.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// What the session does after an answer.
enum Then {
    Reply(Reply),
    Close,
}

async fn session(mut stream: TcpStream, capture: &Capture) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut machine = Server::new(Settings::new("capture.playground.example"));
    match decide(capture, "CONNECT", 220).await {
        Then::Reply(reply) if reply.code == 220 => machine.greet(None),
        Then::Reply(reply) => machine.close_with(reply),
        Then::Close => return Ok(()),
    }
    let mut envelope = Vec::new();
    let mut content = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match machine.next() {
            Event::NeedInput => {
                stream.write_all(&machine.take_output()).await?;
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                machine.feed(&buffer[..count]);
            }
            Event::Helo(_) => {
                machine.helo(Reply::new(250, None, "capture.playground.example"), None, None, false)
            }
            Event::Mail { address, .. } => {
                envelope = vec![format!("X-Envelope-From: <{address}>\r\n")];
                match decide(capture, "MAIL", 250).await {
                    Then::Reply(reply) => machine.mail(reply, false),
                    Then::Close => return Ok(()),
                }
            }
            Event::Rcpt { address, .. } => match decide(capture, "RCPT", 250).await {
                Then::Reply(reply) => {
                    if reply.is_positive() {
                        envelope.push(format!("X-Envelope-To: <{address}>\r\n"));
                    }
                    machine.rcpt(reply, false);
                }
                Then::Close => return Ok(()),
            },
            Event::Data => match decide(capture, "DATA", 354).await {
                Then::Reply(reply) if reply.code == 354 => machine.data(None),
                Then::Reply(reply) => machine.data(Some(reply)),
                Then::Close => {
                    // As a peer that dies in the middle of the content: invited, then gone.
                    machine.data(None);
                    stream.write_all(&machine.take_output()).await?;
                    let _ = stream.read(&mut buffer).await?;
                    return Ok(());
                }
            },
            Event::Content => content.extend_from_slice(machine.content()),
            Event::EndOfData(_) => {
                let message = std::mem::take(&mut content);
                match decide(capture, "EOD", 250).await {
                    Then::Close => return Ok(()),
                    Then::Reply(reply) if reply.is_positive() => {
                        let name = write(capture, &envelope, &message)?;
                        machine.end_of_data(Reply::new(250, None, format!("written as {name}")), false);
                    }
                    Then::Reply(reply) => machine.end_of_data(reply, false),
                }
            }
            Event::DataRefused(_) | Event::Reset => content.clear(),
            // None of these is set up.
            Event::Proxy(_) | Event::StartTls | Event::Auth(_) => return Ok(()),
            Event::Close => return stream.write_all(&machine.take_output()).await,
        }
    }
}

async fn decide(capture: &Capture, phase: &str, default: u16) -> Then {
    match capture.answer(phase) {
        None => Then::Reply(Reply::new(default, None, "Ok")),
        Some(Answer::Code(code)) => Then::Reply(Reply::new(code, None, format!("scripted reply to {phase}"))),
        Some(Answer::Close) => Then::Close,
        Some(Answer::Stall) => std::future::pending().await,
    }
}

/// Writes the envelope and the message under a name of its own; readers see whole files only.
fn write(capture: &Capture, envelope: &[String], message: &[u8]) -> io::Result<String> {
    let number = capture.count.fetch_add(1, Ordering::Relaxed) + 1;
    let name = format!("{number:06}.eml");
    let mut text: Vec<u8> = envelope.concat().into_bytes();
    text.extend_from_slice(message);
    let temporary = capture.dir.join(format!(".{name}.part"));
    std::fs::write(&temporary, &text)?;
    std::fs::rename(&temporary, Path::new(&capture.dir).join(&name))?;
    if !capture.quiet {
        println!("smtp-capture: {} ({} bytes)", capture.dir.join(&name).display(), message.len());
    }
    Ok(name)
}
