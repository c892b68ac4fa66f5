//! `hsh`: runs HSL scripts from the command line.

use clap::Parser;
use hsl::{Array, Compiler, DataError, Host, Limits, LoadError, Loader, Place, Shared, Step, Value, Vm};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Fuel of one turn; between turns nothing happens here, so it only has to be large.
const FUEL: u32 = 1 << 24;

/// Run HSL scripts.
#[derive(Parser)]
#[command(name = "hsh", version, disable_version_flag = true)]
struct Options {
    /// Startup file.
    #[arg(short, long, value_name = "PATH", default_value = "/etc/halon/smtpd.yaml")]
    config: PathBuf,
    /// Script root for file:// paths.
    #[arg(short = 'R', long, value_name = "PATH")]
    rootpath: Option<PathBuf>,
    /// Binary output: echo adds no line feed.
    #[arg(short = 'B', long)]
    binary: bool,
    /// Only check the syntax.
    #[arg(short, long)]
    syntax: bool,
    /// Print the compiled script instead of running it.
    #[arg(long)]
    dump_bytecode: bool,
    /// Print the version.
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Script; - is standard input.
    file: Option<PathBuf>,
    /// Arguments for the script.
    args: Vec<String>,
}

struct Terminal {
    out: BufWriter<std::io::Stdout>,
    binary: bool,
    failed: bool,
}

impl Host for Terminal {
    fn echo(&mut self, text: &[u8], _place: &Place) {
        let mut result = self.out.write_all(text);
        if !self.binary {
            result = result.and_then(|()| self.out.write_all(b"\n"));
        }
        self.failed |= result.is_err();
    }
}

/// Files below the script root.
struct RootLoader {
    root: PathBuf,
}

impl Loader for RootLoader {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        let relative = match path.split_once("://") {
            None => path,
            Some(("file", rest)) => rest,
            Some((scheme, _)) => return Err(LoadError::Refused(format!("Unknown scheme '{scheme}'"))),
        };
        let refused = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => LoadError::NotFound,
            _ => LoadError::Refused(e.to_string()),
        };
        let root = self.root.canonicalize().map_err(refused)?;
        let full = root.join(relative).canonicalize().map_err(refused)?;
        if !full.starts_with(&root) {
            return Err(LoadError::Refused("The path leaves the script root".into()));
        }
        std::fs::read(full).map(Arc::from).map_err(refused)
    }

    fn decode(&self, kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
        hsl_std::decode(kind, data, options)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("hsh: {message}");
            ExitCode::from(2)
        }
    }
}

fn read_source(file: Option<&Path>) -> Result<(String, Vec<u8>), String> {
    match file {
        Some(path) if path != Path::new("-") => {
            let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok((path.display().to_string(), text))
        }
        _ => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).map_err(|e| format!("standard input: {e}"))?;
            Ok(("-".into(), text))
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let (name, source) = read_source(options.file.as_deref())?;
    let root = options.rootpath.clone().unwrap_or_else(|| PathBuf::from("."));
    let compiler = Compiler::new(hsl_std::shared_registry()).loader(Arc::new(RootLoader { root }));
    let compiled = match compiler.compile(&name, &source) {
        Ok(compiled) => compiled,
        Err(list) => {
            for diagnostic in list {
                eprintln!("{diagnostic}");
            }
            return Ok(ExitCode::from(1));
        }
    };
    if options.syntax {
        for warning in &compiled.warnings {
            eprintln!("{warning}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.dump_bytecode {
        print!("{}", compiled.program.dump());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let host = Terminal { out: BufWriter::new(std::io::stdout()), binary: options.binary, failed: false };
    let mut vm = Vm::new(compiled.program, Arc::new(Shared::new()), Limits::default(), Box::new(host));
    loop {
        let step = vm.run(FUEL);
        if !matches!(step, Step::OutOfFuel) {
            flush(&mut vm)?;
        }
        match step {
            Step::Done(_) | Step::Ended { .. } => return Ok(ExitCode::SUCCESS),
            Step::OutOfFuel => {}
            Step::Pending(future) => {
                let result = runtime.block_on(future);
                vm.resume(result);
            }
            Step::Failed(error) => {
                eprintln!("{error}");
                return Ok(ExitCode::from(1));
            }
        }
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
