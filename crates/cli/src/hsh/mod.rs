//! `hsh`: runs HSL scripts from the command line, or reads them from a prompt.

pub mod debug;
pub mod interrupt;
pub mod line;
pub mod privileges;
pub mod profile;
mod queue;
pub mod repl;
pub mod scan;
pub mod session;
pub mod show;

use crate::lint::hook_compiler;
use clap::{CommandFactory, Parser};
use config::{Startup, load};
use debug::Connection;
use hsl::{Array, Compiler, Host, Limits, Place, Registry, Shared, Step, Value, Vm};
use hsl_std::hooks::Hook;
use hsl_std::{Environment, ScriptFiles};
use interrupt::Interrupt;
use profile::{Profile, Recorder};
use session::{Session, hook_values};
use std::any::Any;
use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// Fuel of one turn; between turns nothing happens here, so it only has to be large.
const FUEL: u32 = 1 << 24;
/// Fuel of one turn when an interrupt is to be seen; some milliseconds.
const FUEL_WATCHED: u32 = 1 << 14;

/// How long requests in the background may take after the end of the script.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// The startup file that is read when none is named.
const STARTUP: &str = "/etc/halon/smtpd.yaml";

/// Run HSL scripts.
#[derive(Parser, Debug)]
#[command(
    name = "hsh",
    version,
    disable_version_flag = true,
    after_help = "\
Without a file and on a terminal: a prompt. Tab completes, Ctrl-C cancels the input or the running script, Ctrl-D ends.

Exit status: 0 the script ended; 1 it does not compile or an exception was not caught; 2 usage, files; 130 interrupted
while profiler, coverage or debugger were on."
)]
pub struct Options {
    /// Startup file; /dev/null for none. The default may be missing.
    #[arg(short, long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Fill !Env "${NAME:default}" in configuration files from the environment.
    #[arg(long)]
    config_env_substitution: bool,
    /// Become the user and group of the startup file before anything of a script is read.
    #[arg(short = 'P', long)]
    privdrop: bool,
    /// Compile with the functions and variables of a hook; its variables are empty.
    #[arg(long, value_name = "HOOK", value_parser = phase)]
    phase: Option<Hook>,
    /// Allow the class FFI, which calls functions of C libraries.
    #[arg(short = 'F', long)]
    ffi: bool,
    /// Script root for file:// paths.
    #[arg(short = 'R', long, value_name = "PATH")]
    rootpath: Option<PathBuf>,
    /// Running configuration with virtual files and entry point; - is standard input.
    #[arg(short = 'A', long, value_name = "PATH")]
    appconf: Option<PathBuf>,
    /// Binary output: echo adds no line feed.
    #[arg(short = 'B', long)]
    binary: bool,
    /// Only check the syntax.
    #[arg(short, long)]
    syntax: bool,
    /// Unix socket on which a debugger listens: stop at its break points and tell it of exceptions and output.
    #[arg(short = 'C', long, value_name = "PATH", conflicts_with_all = ["profile", "profile_folded", "coverage"])]
    control: Option<PathBuf>,
    /// Print the compiled script instead of running it.
    #[arg(long)]
    dump_bytecode: bool,
    /// Run with the profiler; tables of functions and lines go to standard error or FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    profile: Option<Option<PathBuf>>,
    /// Run with the profiler; write the call paths with their times, for flame graphs.
    #[arg(long, value_name = "FILE")]
    profile_folded: Option<PathBuf>,
    /// Write which lines and functions have run, in the format of lcov; default lcov.info.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    coverage: Option<Option<PathBuf>>,
    /// Print the library: functions or classes as JSON for editors, or the page of the manual.
    #[arg(long, value_name = "functions|classes|manual", value_parser = ["functions", "classes", "manual"])]
    docs: Option<String>,
    /// Print the completion script for a shell.
    #[arg(long, value_name = "SHELL", exclusive = true)]
    completion: Option<clap_complete::Shell>,
    /// Print the manual page, for man(1).
    #[arg(long, exclusive = true)]
    man: bool,
    /// Print the version.
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Script; - is the entry point of the app file, else standard input.
    file: Option<PathBuf>,
    /// Arguments of the script, in $arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, conflicts_with = "phase")]
    arguments: Vec<std::ffi::OsString>,
}

fn phase(name: &str) -> Result<Hook, String> {
    Hook::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Hook::ALL.iter().map(|hook| hook.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// Standard output as the host of a script.
struct Terminal {
    out: BufWriter<std::io::Stdout>,
    binary: bool,
    failed: bool,
    environment: Arc<Environment>,
    debugger: Option<debug::Output>,
}

impl Host for Terminal {
    fn echo(&mut self, text: &[u8], place: &Place) {
        if let Some(debugger) = &self.debugger {
            debugger.echo(text, place);
        }
        let mut result = self.out.write_all(text);
        if !self.binary {
            result = result.and_then(|()| self.out.write_all(b"\n"));
        }
        self.failed |= result.is_err();
    }

    fn environment(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(&self.environment) as Arc<dyn Any + Send + Sync>)
    }
}

/// The script and the files it can name.
struct Input {
    name: String,
    /// What relative paths in it start from, if not its name.
    base: Option<String>,
    source: Vec<u8>,
    files: ScriptFiles,
    environment: Environment,
}

fn read_all(path: &Path) -> Result<Vec<u8>, String> {
    if path != Path::new("-") {
        return std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(|e| format!("standard input: {e}"))?;
    Ok(text)
}

/// Reads the app file if one is given: its virtual files, its metrics and its entry point.
fn read_app(path: &Path, files: &mut ScriptFiles) -> Result<App, String> {
    let text = read_all(path)?;
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let app = hsl_std::decode("yaml", &text, &Array::new())
        .map_err(|e| format!("{}:{}: {}", path.display(), e.line, e.message))?;
    let Value::Array(app) = app else { return Err(wrong("expected a mapping")) };
    let scripting = app.get_str("scripting").and_then(Value::as_array);
    let list = scripting.and_then(|s| s.get_str("files")).and_then(Value::as_array);
    for file in list.iter().flat_map(|l| l.values()) {
        let entry = file.as_array().ok_or_else(|| wrong("scripting.files: expected a list of mappings"))?;
        let id = entry
            .get_str("id")
            .ok_or_else(|| wrong("scripting.files: an entry lacks 'id'"))?
            .to_string_lossy();
        let data = entry.get_str("data").map(Value::to_str).unwrap_or_default();
        let data = match entry.get_str("binary") {
            Some(binary) if binary.truthy() => hsl_std::base64_decode(data.as_bytes()),
            _ => data.into_vec(),
        };
        files.insert(id, data);
    }
    let metrics = match app.get_str("metrics").and_then(Value::as_array) {
        Some(list) => hsl_std::metrics::declarations(list).map_err(|e| wrong(&e.to_string()))?,
        None => Vec::new(),
    };
    let keys = match app.get_str("pki").and_then(Value::as_array).and_then(|pki| pki.get_str("private")) {
        Some(list) => read_keys(list).map_err(|e| wrong(&format!("pki.private: {e}")))?,
        None => Vec::new(),
    };
    Ok(App { metrics, keys, entry: app.get_str("__entrypoint").map(|v| v.to_str().into_vec()) })
}

/// What `hsh` takes from an app file beside the virtual files.
#[derive(Default)]
struct App {
    metrics: Vec<hsl_std::metrics::Declaration>,
    keys: Vec<config::app::PrivateKey>,
    entry: Option<Vec<u8>>,
}

/// The typed form of a part of the app file, all of which need not be right for `hsh`.
fn read_keys(list: &Value) -> Result<Vec<config::app::PrivateKey>, String> {
    let json = hsl_std::to_json(list).ok_or("expected a list of mappings")?;
    serde_json::from_str(&json).map_err(|e| e.to_string())
}

/// The startup file. The default one may be missing, or closed to ordinary users, who can still run scripts.
fn read_startup(path: Option<&Path>) -> Result<Option<Startup>, String> {
    if path == Some(Path::new("/dev/null")) {
        return Ok(None);
    }
    match load::load(path.unwrap_or(Path::new(STARTUP))) {
        Ok(startup) => Ok(Some(startup)),
        Err(config::Error::File { source, .. })
            if path.is_none()
                && matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The files that scripts can name, what the library knows of this program, and the entry point of the app file.
fn read_files(options: &Options) -> Result<(ScriptFiles, Environment, Option<Vec<u8>>), String> {
    let startup = read_startup(options.config.as_deref())?;
    let root = startup.as_ref().and_then(|s| s.scripting.rootpath.clone());
    let identity = startup.as_ref().map(|s| s.environment.privdrop.clone());
    let app = startup.as_ref().and_then(|s| s.environment.appconf.clone());
    let mut files = ScriptFiles::new();
    files.set_root(options.rootpath.clone().or(root).unwrap_or_else(|| PathBuf::from(".")));
    files.bare_names_in_root(true);
    let app = match options.appconf.as_ref().or(app.as_ref()) {
        Some(app) => read_app(app, &mut files)?,
        None => App::default(),
    };
    let mut environment = match &startup {
        Some(startup) => Environment {
            mail_queue: Some(Arc::new(queue::ControlQueue::of(startup))),
            ..crate::environment(startup, &app.keys)?
        },
        None => Environment { keys: crate::keys(&[], &app.keys)?, ..Environment::default() },
    };
    environment.ffi |= options.ffi;
    environment.metrics.declare(app.metrics);
    let entry = app.entry;
    if options.privdrop {
        privileges::drop_rights(identity.as_ref())?;
    }
    environment.files = Arc::new(files.clone());
    Ok((files, environment, entry))
}

fn read_input(options: &Options) -> Result<Input, String> {
    let (files, environment, entry) = read_files(options)?;
    let file = options.file.as_deref().unwrap_or(Path::new("-"));
    if file != Path::new("-") {
        let (name, base) = (file.display().to_string(), files.name_of(file));
        return Ok(Input { name, base, source: read_all(file)?, files, environment });
    }
    let source = match entry {
        Some(source) => source,
        None if options.appconf.as_deref() == Some(Path::new("-")) => {
            return Err("the app file on standard input has no '__entrypoint'".into());
        }
        None => read_all(file)?,
    };
    Ok(Input { name: "-".into(), base: None, source, files, environment })
}

/// A call of a terminating function, as the script wrote it.
fn verdict(function: &str, args: &[Value]) -> String {
    let given = args.iter().rposition(|value| !value.is_none()).map_or(0, |last| last + 1);
    let list: Vec<String> = args[..given].iter().map(show::show).collect();
    format!("{function}({})", list.join(", "))
}

/// The completion script or the manual page, made from the options themselves.
fn generated(options: &Options) -> Result<Option<Vec<u8>>, String> {
    let mut text = Vec::new();
    if let Some(shell) = options.completion {
        clap_complete::generate(shell, &mut Options::command(), "hsh", &mut text);
    } else if options.man {
        let page = clap_mangen::Man::new(Options::command());
        page.render(&mut text).map_err(|e| format!("manual page: {e}"))?;
    } else {
        return Ok(None);
    }
    Ok(Some(text))
}

/// Does what the options say.
///
/// # Errors
/// What keeps the script from being read or its output from being written, as a message.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    if options.config_env_substitution {
        config::environment::allow();
    }
    if let Some(text) = generated(options)? {
        std::io::stdout().write_all(&text).map_err(|e| format!("standard output: {e}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(kind) = &options.docs {
        let library = hsl_std::shared_registry();
        let registry = options
            .phase
            .map_or_else(|| Arc::clone(&library), |hook| hsl_std::hooks::registry(hook, &library));
        let text = match kind.as_str() {
            "functions" => hsl_std::docs::functions_json(&registry),
            "classes" => hsl_std::docs::classes_json(&registry),
            _ => hsl_std::docs::manual(&registry),
        };
        std::io::stdout().write_all(text.as_bytes()).map_err(|e| format!("standard output: {e}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let from_terminal = options.file.is_none()
        && options.appconf.as_deref() != Some(Path::new("-"))
        && std::io::stdin().is_terminal();
    if from_terminal && !options.syntax && !options.dump_bytecode {
        let (files, environment, _) = read_files(options)?;
        repl::repl(Session::new(options.phase, files), Arc::new(environment), options.binary)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Input { name, base, source, files, environment } = read_input(options)?;
    let library = hsl_std::shared_registry();
    let table = Arc::clone(&library);
    let (compiler, variables) = match options.phase {
        Some(hook) => (hook_compiler(hook, &library), hook_values(hook)),
        None => {
            use std::os::unix::ffi::OsStrExt;
            let list = options.arguments.iter().map(|a| Value::bytes(a.as_bytes())).collect();
            let arguments = Value::from(Array::from_list(list));
            // A script may use the name for itself.
            (
                Compiler::new(library).context_variable("arguments", false),
                vec![("arguments".into(), arguments)],
            )
        }
    };
    let measured = options.profile.is_some() || options.profile_folded.is_some();
    let observed = measured || options.coverage.is_some() || options.control.is_some();
    let mut compiler = compiler.loader(Arc::new(files)).probes(observed && !options.dump_bytecode);
    if let Some(base) = base {
        compiler = compiler.base(&base);
    }
    let colour = colour(std::io::stderr().is_terminal());
    let compiled = match compiler.compile(&name, &source) {
        Ok(compiled) => compiled,
        Err(list) => {
            list.iter().for_each(|d| eprintln!("{}", show::diagnostic(d, colour)));
            return Ok(ExitCode::from(1));
        }
    };
    if options.syntax {
        compiled.warnings.iter().for_each(|w| eprintln!("{}", show::diagnostic(w, colour)));
        return Ok(ExitCode::SUCCESS);
    }
    if options.dump_bytecode {
        print!("{}", compiled.program.dump());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let program = Arc::clone(&compiled.program);
    let debugger = options.control.as_deref().map(Connection::connect).transpose()?;
    let host = Terminal {
        out: BufWriter::new(std::io::stdout()),
        binary: options.binary,
        failed: false,
        environment: Arc::new(environment),
        debugger: debugger.as_ref().map(Connection::output),
    };
    let mut vm = Vm::new(compiled.program, Arc::new(Shared::new()), Limits::default(), Box::new(host));
    for (name, value) in variables {
        // Declared above, so the program has it.
        vm.set_variable(&name, value);
    }
    if !observed {
        let code = execute(&mut vm, &runtime, None, colour)?;
        drop(vm);
        finish(runtime);
        note_calls(&table)?;
        return Ok(code);
    }
    if let Some(debugger) = debugger {
        vm.observe(debugger.observer());
        let interrupt = Interrupt::catch()?;
        let code = execute(&mut vm, &runtime, Some(&interrupt), colour);
        drop(vm);
        debugger.close();
        finish(runtime);
        return code;
    }
    let profile = Arc::new(Mutex::new(Profile::new(program, measured)));
    vm.observe(Box::new(Recorder(Arc::clone(&profile))));
    let interrupt = Interrupt::catch()?;
    let code = execute(&mut vm, &runtime, Some(&interrupt), colour)?;
    drop(vm);
    finish(runtime);
    // The recorder does not panic while it holds the lock.
    let mut profile = profile.lock().unwrap_or_else(PoisonError::into_inner);
    profile.finish();
    report(options, &profile)?;
    Ok(code)
}

/// Lets what the library does in the background come to its end.
fn finish(runtime: tokio::runtime::Runtime) {
    let left = runtime.block_on(hsl_std::network::drain(DRAIN));
    if left > 0 {
        eprintln!("hsh: {left} requests in the background were not sent");
    }
    // A function of C that still runs in the background does not keep the program.
    runtime.shutdown_background();
}

/// Adds the names of the library functions that the script has called to the file that a variable names; builds for
/// tests alone know them.
fn note_calls(library: &Registry) -> Result<(), String> {
    let Some(path) = std::env::var_os("HSH_CALLED").filter(|_| cfg!(debug_assertions)) else { return Ok(()) };
    let list = hsl_std::docs::called(library).join("\n") + "\n";
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(|e| e.to_string())?;
    file.write_all(list.as_bytes()).map_err(|e| e.to_string())
}

/// Whether to write in colour to a terminal.
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Writes what profiler and coverage found.
fn report(options: &Options, profile: &Profile) -> Result<(), String> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    match &options.profile {
        Some(None) => eprint!("{}", profile.tables()),
        Some(Some(path)) => write(path, profile.tables())?,
        None => {}
    }
    if let Some(path) = &options.profile_folded {
        write(path, profile.folded())?;
    }
    if let Some(path) = &options.coverage {
        write(path.as_deref().unwrap_or(Path::new("lcov.info")), profile.lcov())?;
    }
    Ok(())
}

/// Runs a script to its end.
fn execute(
    vm: &mut Vm,
    runtime: &tokio::runtime::Runtime,
    interrupt: Option<&Interrupt>,
    colour: bool,
) -> Result<ExitCode, String> {
    // Between turns nothing happens but a look at the interrupt.
    let fuel = if interrupt.is_some() { FUEL_WATCHED } else { FUEL };
    loop {
        let step = vm.run(fuel);
        if !matches!(step, Step::OutOfFuel) {
            flush(vm)?;
        }
        match step {
            Step::Done(_) => return Ok(ExitCode::SUCCESS),
            Step::Ended { function, args } => {
                println!("{}", verdict(&function, &args));
                return Ok(ExitCode::SUCCESS);
            }
            Step::OutOfFuel if interrupt.is_some_and(Interrupt::seen) => {
                flush(vm)?;
                return Ok(ExitCode::from(130));
            }
            Step::OutOfFuel => {}
            Step::Pending(future) => {
                let result = runtime.block_on(async {
                    tokio::select! {
                        result = future => Some(result),
                        () = wait(interrupt) => None,
                    }
                });
                match result {
                    Some(result) => vm.resume(result),
                    None => return Ok(ExitCode::from(130)),
                }
            }
            Step::Failed(error) => {
                eprintln!("{}", show::failure(&error, colour));
                return Ok(ExitCode::from(1));
            }
        }
    }
}

async fn wait(interrupt: Option<&Interrupt>) {
    match interrupt {
        Some(interrupt) => interrupt.wait().await,
        None => std::future::pending().await,
    }
}

fn flush(vm: &mut Vm) -> Result<(), String> {
    if let Some(terminal) = vm.host::<Terminal>() {
        terminal.out.flush().map_err(|e| format!("standard output: {e}"))?;
        if terminal.failed {
            return Err("standard output could not be written".into());
        }
    }
    Ok(())
}
