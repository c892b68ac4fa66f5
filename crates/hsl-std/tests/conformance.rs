//! Runs every program of the conformance corpus (`tests/conformance/hsl`, see the README there) and compares its
//! output, or for `errors/` the reported line.

use hsl::{
    Array, Compiler, DataError, Host, Limits, LoadError, Loader, NoHost, Place, Shared, Step, Value, Vm,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// Jumps and calls that no program of the corpus needs.
const FUEL: u32 = 50_000_000;

struct Files(PathBuf);

impl Loader for Files {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        let name = path.strip_prefix("file://").ok_or(LoadError::NotFound)?;
        fs::read(self.0.join(name)).map(Arc::from).map_err(|_| LoadError::NotFound)
    }

    fn decode(&self, kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
        hsl_std::decode(kind, data, options)
    }
}

struct Output(Arc<Mutex<Vec<u8>>>);

impl Host for Output {
    fn echo(&mut self, text: &[u8], _: &Place) {
        let mut out = self.0.lock().unwrap();
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

/// Output, or line and message of the failure.
fn run(root: &Path, file: &Path) -> Result<Vec<u8>, (u32, String)> {
    let source = fs::read(file).unwrap();
    let compiler = Compiler::new(hsl_std::shared_registry()).loader(Arc::new(Files(root.to_path_buf())));
    let compiled =
        compiler.compile("main.hsl", &source).map_err(|list| (list[0].place.line, list[0].to_string()))?;
    let out = Arc::new(Mutex::new(Vec::new()));
    let host = Box::new(Output(Arc::clone(&out)));
    let mut vm = Vm::new(compiled.program, Arc::new(Shared::new()), Limits::default(), host);
    let mut fuel = FUEL;
    loop {
        // Small turns also show that a run can be stopped anywhere.
        match vm.run(7) {
            Step::Done(_) | Step::Ended { .. } => break,
            Step::OutOfFuel if fuel < 7 => return Err((0, "out of fuel".into())),
            Step::OutOfFuel => fuel -= 7,
            Step::Failed(e) => return Err((e.diagnostic.place.line, e.to_string())),
            Step::Pending(mut future) => {
                match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => vm.resume(result),
                    Poll::Pending => return Err((0, "waits for nobody".into())),
                }
            }
        }
    }
    drop(vm);
    Ok(Arc::try_unwrap(out).unwrap().into_inner().unwrap())
}

fn programs(folder: &Path) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "hsl"))
        .collect();
    list.sort();
    assert!(!list.is_empty(), "no programs in {}", folder.display());
    list
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/hsl")
}

#[test]
fn programs_print_what_they_should() {
    let root = corpus();
    let mut failures = Vec::new();
    for file in programs(&root) {
        let expected = fs::read(file.with_extension("out")).unwrap();
        match run(&root, &file) {
            Ok(out) if out == expected => {}
            Ok(out) => failures.push(format!("{}:\n{}", file.display(), String::from_utf8_lossy(&out))),
            Err((_, message)) => failures.push(format!("{}: {message}", file.display())),
        }
    }
    assert!(failures.is_empty(), "{} programs failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn bad_programs_fail_on_the_right_line() {
    let root = corpus();
    let mut failures = Vec::new();
    for file in programs(&root.join("errors")) {
        let why = fs::read_to_string(file.with_extension("why")).unwrap();
        let line: u32 = why.strip_prefix("line ").unwrap().split(':').next().unwrap().parse().unwrap();
        match run(&root, &file) {
            Err((found, _)) if found == line => {}
            Err((found, message)) => {
                failures.push(format!("{}: line {found}: {message}; {why}", file.display()))
            }
            Ok(_) => failures.push(format!("{}: no error; {why}", file.display())),
        }
    }
    assert!(failures.is_empty(), "{} programs failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn an_execution_may_move_between_threads() {
    let compiler = Compiler::new(hsl_std::shared_registry());
    let source = b"$s = []; for ($i = 0; $i < 1000; $i++) { $s[] = \"item number $i\"; } return length($s);";
    let program = compiler.compile("main.hsl", source).unwrap().program;
    let mut vm = Vm::new(program, Arc::new(Shared::new()), Limits::default(), Box::new(NoHost));
    loop {
        let (back, step) = std::thread::spawn(move || {
            let step = vm.run(100);
            (vm, step)
        })
        .join()
        .unwrap();
        vm = back;
        match step {
            Step::OutOfFuel => {}
            Step::Done(v) => {
                assert_eq!(v.as_number(), Some(1000.0));
                return;
            }
            _ => panic!("unexpected step"),
        }
    }
}
