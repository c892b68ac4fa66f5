//! The class FFI with the C library and with a small library that the test compiles.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const LIBRARY: &str = r#"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int8_t negative8(void) { return -5; }
uint16_t add16(uint16_t a, uint8_t b) { return a + b; }
int64_t big(int64_t a) { return a * 2; }
float half(float a) { return a / 2; }
double twice(double a) { return a * 2; }
void nothing(void) {}
void *null_pointer(void) { return 0; }
int32_t value = 7;

int32_t apply(int32_t (*f)(int32_t, const char *), int32_t times) {
    int32_t sum = 0;
    for (int32_t i = 0; i < times; i++) sum += f(i, "text");
    return sum;
}
double with_double(double (*f)(float, double)) { return f(1.5f, 2.25); }

static int32_t (*kept)(int32_t, const char *);
void keep(int32_t (*f)(int32_t, const char *)) { kept = f; }
int32_t call_kept(int32_t n) { return kept(n, "kept"); }

int32_t sum(int32_t count, ...) {
    va_list list;
    int32_t total = 0;
    va_start(list, count);
    for (int32_t i = 0; i < count; i++) total += va_arg(list, int32_t);
    va_end(list);
    return total;
}

static int32_t freed = 0;
char *make(const char *text) { return strdup(text); }
void unmake(char *text) { freed++; free(text); }
int32_t freed_count(void) { return freed; }

int32_t read_all(FILE *file, char *into, int32_t size) { return (int32_t)fread(into, 1, size, file); }
"#;

fn hsh(folder: &Path, options: &[&str], script: &str) -> (bool, String, String) {
    fs::write(folder.join("a.hsl"), script).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "-R"])
        .arg(folder)
        .args(options)
        .arg(folder.join("a.hsl"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn functions_callbacks_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("t.c"), LIBRARY).unwrap();
    fs::write(at.join("data.txt"), "on the disk").unwrap();
    let gcc = Command::new("gcc").args(["-shared", "-fPIC", "-o", "t.so", "t.c"]).current_dir(at).status();
    assert!(gcc.unwrap().success());
    let script = format!(
        r#"
$l = FFI("{root}/t.so");
function t($name) {{ return FFI::type($name); }}
echo FFI::number($l->func("negative8", [], t("sint8"))());
echo FFI::number($l->func("add16", [t("uint16"), t("uint8")], t("uint16"))(65535, 258));
echo json_encode(FFI::number64($l->func("big", [t("sint64")], t("sint64"))(-4294967297)));
echo FFI::number($l->func("half", [t("float")], t("float"))(3));
echo FFI::number($l->func("twice", [t("double")], t("double"))(1.25));
echo json_encode($l->func("nothing", [], t("void"))());
echo json_encode($l->func("null_pointer", [], t("pointer"))());
echo FFI::number(FFI::deref($l->symbol("value"), t("sint32")));
echo json_encode($l->symbol("no_such_symbol"));
// Callbacks: arguments are values of C, the result may be a number.
$apply = $l->func("apply", [t("pointer"), t("sint32")], t("sint32"));
$seen = "";
$c = FFI::callback([t("sint32"), t("pointer")], t("sint32"), function ($n, $text) closure ($seen) {{
    $seen .= FFI::string($text) . FFI::number($n);
    return FFI::number($n) * 10;
}});
echo FFI::number($apply($c, 4));
echo $seen;
// The script may wait inside, and call C again.
$again = FFI::callback([t("sint32"), t("pointer")], t("sint32"), function ($n, $text) closure ($apply, $c) {{
    sleep(0.01);
    return $apply($c, 2);
}});
echo FFI::number($apply($again, 2));
$throws = FFI::callback([t("sint32"), t("pointer")], t("sint32"), function ($n, $text) {{ throw Exception("stop"); }});
try {{ $apply($throws, 3); }} catch ($e) {{ echo $e->message(); }}
$d = FFI::callback([t("float"), t("double")], t("double"), function ($a, $b) {{ return FFI::number($a) + FFI::number($b); }});
echo FFI::number($l->func("with_double", [t("pointer")], t("double"))($d));
$l->func("keep", [t("pointer")], t("void"))($c);
echo FFI::number($l->func("call_kept", [t("sint32")], t("sint32"))(5));
$sum = $l->func("sum", [t("sint32"), t("...")], t("sint32"));
echo FFI::number($sum(3, FFI::cnumber(t("sint32"), 1), FFI::cnumber(t("sint8"), -2), FFI::cnumber(t("uint16"), 40)));
// Memory: owned, given away, with a destructor.
$make = $l->func("make", [t("pointer")], t("pointer"));
$count = $l->func("freed_count", [], t("sint32"));
function used($l, $make) {{
    $p = FFI::attach($make("owned"), $l->symbol("unmake"));
    return FFI::string($p);
}}
echo used($l, $make);
echo FFI::number($count());
function kept($l, $make) {{
    $p = FFI::detach(FFI::attach($make("kept"), $l->symbol("unmake")));
    return FFI::attach($p) ? FFI::string($p, 2) : "";
}}
echo kept($l, $make);
echo FFI::number($count());
$n = FFI::cnumber(t("uint32"), 305419896);
$p = FFI::byref($n);
echo FFI::number(FFI::deref($p, t("uint8")));
echo FFI::number(FFI::deref(FFI::offset($p, 3), t("uint8")));
echo json_encode(FFI::deref(FFI::nullptr()));
// Files as streams of C, with content and position.
$read = $l->func("read_all", [t("pointer"), t("pointer"), t("sint32")], t("sint32"));
foreach (["File::String" => File::String("in memory"), "disk" => File("data.txt")] as $file) {{
    $file->seek(3);
    $into = FFI::allocate(64);
    echo FFI::number($read($file->toFFIValue(), $into, 64)) . ":" . FFI::string($into);
}}
$closed = File::String("");
$closed->close();
echo json_encode($closed->toFFIValue());
$libc = FFI("libc.so.6");
$s = Socket("AF_INET", "SOCK_STREAM");
echo FFI::number($libc->func("isatty", [t("sint32")], t("sint32"))($s->toFFIValue()));
$crypto = FFI("libcrypto.so.3");
echo FFI::number($crypto->func("X509_get_version", [t("pointer")], t("sint64"))(X509::String(File::read("c.pem"), ["pem" => true])->toFFIValue()));
// Mistakes that can be seen are exceptions.
$wrong = [
    function () closure ($apply, $c) {{ $apply("no pointer"); }},
    function () closure ($apply) {{ $apply([], 1); }},
    function () closure ($sum) {{ $sum(1, 1); }},
    function () {{ FFI::type("int"); }},
    function () {{ FFI::allocate(-1); }},
    function () {{ FFI::memcpy(FFI::nullptr(), "x"); }},
    function () closure ($l) {{ $l->func("sum", [FFI::type("void")], FFI::type("void")); }},
    function () {{ FFI::number(1); }},
];
foreach ($wrong as $f) {{ try {{ $f(); echo "nothing"; }} catch ($e) {{ }} }}
echo "end";
"#,
        root = at.display()
    );
    let pem = [
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-keyout",
        "/dev/null",
        "-subj",
        "/CN=a",
        "-out",
        "c.pem",
    ];
    assert!(
        Command::new("openssl").args(pem).current_dir(at).stderr(Stdio::null()).status().unwrap().success()
    );
    let (good, out, errors) = hsh(at, &["-F"], &script);
    assert!(good && errors.is_empty(), "{errors}");
    let expected = "-5\n1\n[4294967293,4294967294]\n1.5\n2.5\nnull\nnull\n7\nnull\n60\ntext0text1text2text3\n20\nstop\n\
                    3.75\n50\n39\nowned\n1\nke\n1\n120\n18\nnull\n6:memory\n8:the disk\nnull\n0\n2\nend\n";
    assert_eq!(out, expected);
}

#[test]
fn it_is_off_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    for call in ["FFI(\"libc.so.6\")", "FFI::cstring(\"x\")", "FFI::type(\"pointer\")", "FFI::nullptr()"] {
        let (good, _, errors) = hsh(folder.path(), &[], &format!("{call};"));
        assert!(!good && errors.contains("FFI is not allowed"), "{call}: {errors}");
    }
    let (good, out, _) = hsh(folder.path(), &[], "echo json_encode(File::String(\"x\")->toFFIValue());");
    assert!(good && out == "null\n");
    let startup = "version: '1.0'\nservers: []\nscripting: {ffi: true}\n";
    fs::write(folder.path().join("smtpd.yaml"), startup).unwrap();
    fs::write(folder.path().join("a.hsl"), "echo FFI::number(FFI(\"libc.so.6\")->func(\"labs\", [FFI::type(\"sint64\")], FFI::type(\"sint64\"))(-3));").unwrap();
    fs::write(folder.path().join("app.yaml"), "{}").unwrap();
    let at = |name: &str| folder.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .arg("-c")
        .arg(at("smtpd.yaml"))
        .arg("-A")
        .arg(at("app.yaml"))
        .arg(at("a.hsl"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n", "{}", String::from_utf8_lossy(&output.stderr));
}
