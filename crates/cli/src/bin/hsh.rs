//! `hsh`: runs HSL scripts from the command line.

use clap::Parser;
use hsl::{Array, Compiler, Host, Limits, Place, Shared, Step, Value, Vm};
use hsl_std::ScriptFiles;
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
    /// Print the compiled script instead of running it.
    #[arg(long)]
    dump_bytecode: bool,
    /// Print the version.
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Script; - is standard input.
    file: Option<PathBuf>,
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

/// The script and the files it can name.
struct Input {
    name: String,
    source: Vec<u8>,
    files: ScriptFiles,
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

fn read_all(path: &Path) -> Result<Vec<u8>, String> {
    if path != Path::new("-") {
        return std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(|e| format!("standard input: {e}"))?;
    Ok(text)
}

/// Reads the app file if one is given: its virtual files and its entry point.
fn read_app(path: &Path, files: &mut ScriptFiles) -> Result<Option<Vec<u8>>, String> {
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
    Ok(app.get_str("__entrypoint").map(|v| v.to_str().into_vec()))
}

fn read_input(options: &Options) -> Result<Input, String> {
    let mut files = ScriptFiles::new();
    files.set_root(options.rootpath.clone().unwrap_or_else(|| PathBuf::from(".")));
    files.bare_names_in_root(true);
    let mut entry = None;
    if let Some(app) = &options.appconf {
        entry = read_app(app, &mut files)?;
    }
    let file = options.file.as_deref().unwrap_or(Path::new("-"));
    if file != Path::new("-") {
        return Ok(Input { name: file.display().to_string(), source: read_all(file)?, files });
    }
    let source = match entry {
        Some(source) => source,
        None if options.appconf.as_deref() == Some(Path::new("-")) => {
            return Err("the app file on standard input has no '__entrypoint'".into());
        }
        None => read_all(file)?,
    };
    Ok(Input { name: "-".into(), source, files })
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let Input { name, source, files } = read_input(options)?;
    let compiler = Compiler::new(hsl_std::shared_registry()).loader(Arc::new(files));
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
