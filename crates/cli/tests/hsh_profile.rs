//! `hsh --profile` and `--coverage`: exact counts over real scripts.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const SCRIPT: &str = r#"import { helper } from "file://lib.hsl";
function fib($n) {
    if ($n < 2)
        return $n;
    return fib($n - 1) + fib($n - 2);
}
class Box {
    constructor($v) { $this->v = $v; }
    function twice() { return $this->v * 2; }
    function never() {
        return 0;
    }
}
$sum = fib(5);
for ($i = 0; $i < 3; $i++) {
    $sum += Box($i)->twice();
}
foreach (["x", "y"] as $item)
    $sum += length(str_repeat($item, 10));
try {
    helper(true);
} catch ($e) {
    $sum += 1;
}
if ($sum == 0) {
    echo "nothing";
} else if ($sum > 0) {
    echo $sum;
}
echo match ($sum) {
    1 => "one",
    default => "many",
};
"#;

const LIBRARY: &str = "function helper($fail) {\n    if ($fail)\n        throw \"no\";\n    return 1;\n}\n";

fn hsh(folder: &Path, arguments: &[&str]) -> Output {
    std::fs::write(folder.join("main.hsl"), SCRIPT).unwrap();
    std::fs::write(folder.join("lib.hsl"), LIBRARY).unwrap();
    Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "-R", "."])
        .args(arguments)
        .arg("main.hsl")
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Rows of a table as first and last column.
fn rows(table: &str) -> Vec<(u64, String)> {
    let mut rows: Vec<(u64, String)> = table
        .lines()
        .skip(1)
        .map(|row| {
            let count = row.split_whitespace().next().unwrap().parse().unwrap();
            let text = row.split("  ").filter(|part| !part.trim().is_empty()).collect::<Vec<_>>();
            (count, text.last().unwrap().trim().to_owned())
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn functions_and_lines_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let output = hsh(folder.path(), &["--profile=table.txt"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "32\nmany\n");
    assert!(output.status.success() && output.stderr.is_empty());
    let text = std::fs::read_to_string(folder.path().join("table.txt")).unwrap();
    let (functions, lines) = text.split_once("\n\n").unwrap();
    let expected = [
        (1, "(main) (main.hsl:1)"),
        (1, "(module file://lib.hsl) (file://lib.hsl:1)"),
        (1, "helper (file://lib.hsl:1)"),
        (2, "length (native)"),
        (2, "str_repeat (native)"),
        (3, "Box::constructor (main.hsl:8)"),
        (3, "Box::twice (main.hsl:9)"),
        (15, "fib (main.hsl:2)"),
    ];
    let found = rows(functions);
    assert_eq!(found.iter().map(|(n, t)| (*n, &**t)).collect::<Vec<_>>(), expected);
    let mut counts: Vec<(String, u64)> = lines
        .lines()
        .skip(1)
        .map(|row| {
            let mut words = row.split_whitespace();
            let count = words.next().unwrap().parse().unwrap();
            (words.nth(1).unwrap().to_owned(), count)
        })
        .collect();
    counts.sort();
    let of = |place: &str| counts.iter().find(|(p, _)| p == place).map_or(0, |(_, n)| *n);
    for (line, count) in [
        (2, 15),
        (3, 15),
        (4, 8),
        (5, 7),
        (8, 3),
        (9, 3),
        (10, 0),
        (11, 0),
        (14, 1),
        (15, 4),
        (16, 3),
        (18, 3),
        (19, 2),
        (20, 1),
        (21, 1),
        (23, 1),
        (26, 0),
        (27, 1),
        (28, 1),
        (31, 0),
        (32, 1),
    ] {
        assert_eq!(of(&format!("main.hsl:{line}")), count, "line {line}: {counts:?}");
    }
    assert_eq!((of("file://lib.hsl:3"), of("file://lib.hsl:4")), (1, 0));
}

#[test]
fn call_paths_for_flame_graphs() {
    let folder = tempfile::tempdir().unwrap();
    let output = hsh(folder.path(), &["--profile-folded", "folded.txt"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let text = std::fs::read_to_string(folder.path().join("folded.txt")).unwrap();
    let paths: Vec<&str> = text
        .lines()
        .map(|line| {
            let (path, time) = line.rsplit_once(' ').unwrap();
            time.parse::<u64>().unwrap();
            path
        })
        .collect();
    assert_eq!(
        paths,
        [
            "(main)",
            "(main);(module file://lib.hsl)",
            "(main);Box::constructor",
            "(main);Box::twice",
            "(main);fib",
            "(main);fib;fib",
            "(main);fib;fib;fib",
            "(main);fib;fib;fib;fib",
            "(main);fib;fib;fib;fib;fib",
            "(main);helper",
            "(main);length",
            "(main);str_repeat",
        ]
    );
}

#[test]
fn coverage() {
    let folder = tempfile::tempdir().unwrap();
    let output = hsh(folder.path(), &["--coverage"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let text = std::fs::read_to_string(folder.path().join("lcov.info")).unwrap();
    let expected = "\
TN:
SF:file://lib.hsl
FN:1,helper
FNDA:1,helper
FNF:1
FNH:1
DA:1,1
DA:2,1
DA:3,1
DA:4,0
LF:4
LH:3
end_of_record
TN:
SF:main.hsl
FN:2,fib
FN:8,Box::constructor
FN:9,Box::twice
FN:10,Box::never
FNDA:15,fib
FNDA:3,Box::constructor
FNDA:3,Box::twice
FNDA:0,Box::never
FNF:4
FNH:3
DA:2,15
DA:3,15
DA:4,8
DA:5,7
DA:8,3
DA:9,3
DA:10,0
DA:11,0
DA:14,1
DA:15,4
DA:16,3
DA:18,3
DA:19,2
DA:20,1
DA:21,1
DA:23,1
DA:25,1
DA:26,0
DA:27,1
DA:28,1
DA:30,1
DA:31,0
DA:32,1
LF:23
LH:19
end_of_record
";
    assert_eq!(text, expected);
}

#[test]
fn failures_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("slow.hsl");
    std::fs::write(&script, "function slow() {\n sleep(0.2);\n}\nslow();\nthrow \"end\";\necho 1;\n")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "--profile", "--coverage=cov", "slow.hsl"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("slow.hsl:5:1: Uncaught end\n"), "{text}");
    // The wait is the native function's own, in the total of its callers, and in the line that calls it.
    let row = |end: &str| -> Vec<f64> {
        let row = text.lines().find(|row| row.ends_with(end)).unwrap_or_else(|| panic!("no {end}: {text}"));
        row.split_whitespace().take(3).map(|n| n.parse().unwrap_or(-1.0)).collect()
    };
    let (slow, sleep, line) = (row("slow (slow.hsl:1)"), row("sleep (native)"), row("sleep(0.2);"));
    assert!(slow[0] == 1.0 && slow[1] >= 200.0 && slow[2] < 100.0, "{slow:?}");
    assert!(sleep[0] == 1.0 && sleep[1] >= 200.0 && sleep[2] >= 200.0, "{sleep:?}");
    assert!(line[0] == 1.0 && line[1] >= 200.0, "{line:?}");
    assert!(std::fs::read_to_string(folder.path().join("cov")).unwrap().contains("\nDA:5,1\n"));
}

#[test]
fn interrupted_scripts_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("spin", "forever $n += 1;"), ("wait", "sleep(1000);")] {
        std::fs::write(folder.path().join("s.hsl"), format!("$n = 0; $n += 0;\n{text}\n")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hsh"))
            .args(["-c", "/dev/null", "--profile=table.txt", "s.hsl"])
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(700));
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}");
        let table = std::fs::read_to_string(folder.path().join("table.txt")).unwrap();
        assert!(table.contains("(main) (s.hsl:1)"), "{name}: {table}");
    }
}
