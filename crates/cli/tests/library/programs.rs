//! Runs every known-answer program of the standard library (`tests/conformance/stdlib`, see the README there) with
//! `hsh` and compares its output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs that need functions which are not there yet.
const MISSING: &[&str] = &[];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/stdlib")
}

/// What is wrong with the run of a program, if anything.
fn failure(folder: &Path, name: &str) -> Option<String> {
    let read = |extension: &str| fs::read(folder.join(name).with_extension(extension));
    let options = read("args").map(|text| String::from_utf8(text).unwrap()).unwrap_or_default();
    let run = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null"])
        .args(options.split_whitespace())
        .arg(format!("{name}.hsl"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let expected = read("out").unwrap();
    if run.status.success() && run.stdout == expected {
        return None;
    }
    let (found, wanted) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&expected));
    let (mut found, mut wanted) = (found.lines(), wanted.lines());
    let mut line = 0;
    let difference = loop {
        line += 1;
        match (found.next(), wanted.next()) {
            (None, None) => break String::new(),
            (a, b) if a == b => {}
            (a, b) => break format!("line {line}: found {a:?}, expected {b:?}"),
        }
    };
    let errors = String::from_utf8_lossy(&run.stderr);
    Some(format!("{name}: {}: {difference} {}", run.status, errors.trim()))
}

#[test]
fn programs_print_what_they_should() {
    let folder = corpus();
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".hsl").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() > 150, "{} programs in {}", names.len(), folder.display());
    let failures: Vec<(String, String)> =
        names.into_iter().filter_map(|name| failure(&folder, &name).map(|why| (name, why))).collect();
    let unexpected: Vec<&str> =
        failures.iter().filter(|(name, _)| !MISSING.contains(&&**name)).map(|(_, why)| &**why).collect();
    assert!(unexpected.is_empty(), "{} programs failed:\n{}", unexpected.len(), unexpected.join("\n"));
    let passing: Vec<&str> =
        MISSING.iter().filter(|m| failures.iter().all(|(name, _)| name != *m)).copied().collect();
    assert!(passing.is_empty(), "no longer missing, remove from the list: {passing:?}");
}
