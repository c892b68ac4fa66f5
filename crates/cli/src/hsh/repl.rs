//! The prompt: reads inputs, runs them in a [`Session`], shows values and errors.

use super::interrupt::Interrupt;
use super::line::Line;
use super::session::{Input, Session};
use super::show::{coloured, diagnostic, failure};
use super::{Terminal, flush};
use hsl::{Error, Step, Value, Vm};
use hsl_std::Environment;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use std::cell::RefCell;
use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

const PROMPT: &str = "HSH> ";
/// Inputs kept in the history file.
const HISTORY_MAX: usize = 10_000;
/// Fuel between two looks at the interrupt; some milliseconds.
const FUEL: u32 = 1 << 16;

/// How an input ended.
enum End {
    Value(Value),
    Verdict(String),
    Failed(Box<hsl::ScriptError>),
    /// Interrupted while it was busy.
    Stopped,
}

/// Runs the prompt until Ctrl-D.
///
/// # Errors
/// The terminal, the signal handler or the runtime cannot be set up, as a message.
pub fn repl(session: Session, environment: Arc<Environment>, binary: bool) -> Result<(), String> {
    let colour = super::colour(std::io::stdout().is_terminal());
    let failed = |e: ReadlineError| format!("terminal: {e}");
    let config = Config::builder().completion_type(CompletionType::List).build();
    let mut editor: Editor<Line, FileHistory> = Editor::with_config(config).map_err(failed)?;
    editor.set_max_history_size(HISTORY_MAX).map_err(failed)?;
    let session = Rc::new(RefCell::new(session));
    editor.set_helper(Some(Line::new(Rc::clone(&session), colour)));
    let history = history_path();
    if let Some(path) = &history
        && path.exists()
        && let Err(error) = editor.load_history(path)
    {
        eprintln!("hsh: {}: {error}", path.display());
    }
    let interrupt = Interrupt::catch()?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    loop {
        let text = match editor.readline(PROMPT) {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if text.trim().is_empty() {
            continue;
        }
        let added = editor.add_history_entry(&text).map_err(failed)?;
        if let Some(path) = &history
            && added
            && let Err(error) = editor.append_history(path)
        {
            eprintln!("hsh: {}: {error}", path.display());
        }
        let compiled = session.borrow().compile(&text);
        match compiled {
            Err(errors) => errors.iter().for_each(|e| eprintln!("{}", diagnostic(e, colour))),
            Ok(input) => {
                Session::warnings(&input).iter().for_each(|w| eprintln!("{}", diagnostic(w, colour)));
                let host = Terminal {
                    out: BufWriter::new(std::io::stdout()),
                    binary,
                    failed: false,
                    environment: Arc::clone(&environment),
                    debugger: None,
                };
                run(&mut session.borrow_mut(), &input, &runtime, &interrupt, host, colour)?;
            }
        }
    }
}

/// `HSH_HISTORY`, or a file in the home folder; none when neither is set or the first is empty.
fn history_path() -> Option<PathBuf> {
    match std::env::var_os("HSH_HISTORY") {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".hsh_history")),
    }
}

fn run(
    session: &mut Session,
    input: &Input,
    runtime: &Runtime,
    interrupt: &Interrupt,
    host: Terminal,
    colour: bool,
) -> Result<(), String> {
    let mut vm = session.start(input, Box::new(host));
    interrupt.clear();
    let end = steps(&mut vm, runtime, interrupt)?;
    flush(&mut vm)?;
    let stopped = matches!(end, End::Stopped);
    match end {
        End::Value(value) if input.is_expression() && !value.is_none() => {
            println!("{}", coloured(&value, colour))
        }
        End::Value(_) => {}
        End::Verdict(text) => println!("{text}"),
        End::Failed(mut error) => {
            Session::mend(input, &mut error);
            eprintln!("{}", failure(&error, colour));
        }
        End::Stopped => eprintln!("Interrupted"),
    }
    session.finish(input, vm, stopped);
    Ok(())
}

fn steps(vm: &mut Vm, runtime: &Runtime, interrupt: &Interrupt) -> Result<End, String> {
    loop {
        match vm.run(FUEL) {
            Step::Done(value) => return Ok(End::Value(value)),
            Step::Ended { function, args } => return Ok(End::Verdict(super::verdict(&function, &args))),
            Step::Failed(error) => return Ok(End::Failed(error)),
            Step::OutOfFuel if interrupt.seen() => return Ok(End::Stopped),
            // What a long script has printed is to be seen while it runs.
            Step::OutOfFuel => flush(vm)?,
            Step::Pending(future) => {
                flush(vm)?;
                // Failing the call unwinds the script, which releases its barriers.
                let result = runtime.block_on(async {
                    tokio::select! {
                        result = future => result,
                        () = interrupt.wait() => Err(Error::fatal("Interrupted")),
                    }
                });
                vm.resume(result);
            }
        }
    }
}
