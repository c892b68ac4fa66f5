//! The decoders of the library with random bytes and with random values: nothing panics, what is encoded decodes to
//! the same, and limits hold.

use hsl::{Array, Compiler, Limits, NoHost, Shared, Step, Value, Vm};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Runs a script with the variable `$d`; `None` when it throws.
fn run(script: &str, data: Value) -> Option<Value> {
    static REGISTRY: LazyLock<Arc<hsl::Registry>> = LazyLock::new(hsl_std::shared_registry);
    let compiler = Compiler::new(Arc::clone(&REGISTRY)).context_variable("d", false);
    let script = format!("try {{ {script} }} catch ($e) {{ return $e; }}");
    let program = compiler.compile("a.hsl", script.as_bytes()).unwrap().program;
    let limits = Limits { timeout: Some(Duration::from_secs(20)), ..Limits::default() };
    let mut vm = Vm::new(program, Arc::new(Shared::new()), limits, Box::new(NoHost));
    vm.set_variable("d", data);
    loop {
        match vm.run(1 << 20) {
            Step::Done(Value::Object(_)) => return None,
            Step::Done(value) => return Some(value),
            Step::OutOfFuel => {}
            Step::Failed(error) => {
                assert!(error.to_string().contains("limit reached"), "{error}");
                return None;
            }
            Step::Ended { .. } | Step::Pending(_) => panic!("{script} neither waits nor ends"),
        }
    }
}

fn text(value: &Value) -> Vec<u8> {
    value.to_str().as_bytes().to_vec()
}

/// Bytes that are often near the syntax of the formats.
fn near() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "\"", "'", "[", "]", "{", "}", ":", ",", "\n", "\r\n", " ", "  ", "- ", "&a ", "*a", "<<: *a", "!x ",
        "!!int ", "|", ">", "\\", "\\u00e5", "\\ud800", "1", "-0.5e3", "0x1f", "true", "null", "~", "//",
        "/*", "*/", "%", "=?", "?=", "utf-8?Q?", "é", "\u{0}", "---", "...", "? ", ".inf", "a", "#", "\t",
    ]);
    let structured = prop::collection::vec(piece, 0..40).prop_map(|p| p.concat().into_bytes());
    prop_oneof![structured, prop::collection::vec(any::<u8>(), 0..200)]
}

/// Values that JSON can hold.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        (-1e15..1e15_f64).prop_map(Value::from),
        // Control characters beyond those of JSON are not YAML.
        "[ -~\n\t\"\\\\å€😀]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[a-z]{1,6}", inner), 1..6).prop_map(|pairs| {
                let mut array = Array::new();
                pairs.into_iter().for_each(|(k, v)| array.insert_str(&k, v));
                array.into()
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn decoders_take_anything(bytes in near()) {
        for function in [
            "json_decode($d)", "json_decode($d, [\"allow_comments\" => true])", "yaml_decode($d)", "csv_decode($d)",
            "csv_decode($d, [\"header\" => false])", "mimeword_decode($d)", "mimeword_encode($d)", "url_decode($d)",
            "base64_decode($d)", "base32_decode($d)", "idna_decode($d)", "idna_encode($d)", "domain_publicsuffix($d)",
            "zlib_uncompress($d)", "zlib_uncompress($d, -15)", "zlib_uncompress($d, 47)", "url_parse($d)",
            "strpduration($d)", "X509::String($d)", "X509CRL::String($d)", "X509::String($d, [\"pem\" => true])",
            "cms_verify($d, $d, [\"certs\" => []])", "rsa_privatekey($d)", "ed25519_verify(\"\", $d, $d)",
            "strptime($d, $d)", "strftime($d, 0)", "LDAP::str2dn($d)", "inet_pton($d)", "xtext_decode($d)",
        ] {
            run(&format!("return {function};"), Value::bytes(&bytes));
        }
    }

    #[test]
    fn json_round_trip(value in json_value()) {
        let back = run("return json_decode(json_encode($d));", value.clone()).unwrap();
        prop_assert!(back.strict_eq(&value), "{} {}", value.to_string_lossy(), back.to_string_lossy());
        let pretty = run("return json_decode(json_encode($d, [\"pretty_print\" => true, \"ensure_ascii\" => false]));", value.clone()).unwrap();
        prop_assert!(pretty.strict_eq(&value));
        // JSON is YAML.
        let yaml = run("return yaml_decode(json_encode($d, [\"ensure_ascii\" => false]));", value.clone()).unwrap();
        prop_assert!(yaml.strict_eq(&value), "{} {}", value.to_string_lossy(), yaml.to_string_lossy());
    }

    #[test]
    fn csv_round_trip(rows in prop::collection::vec(prop::collection::vec("[^\0]{0,8}", 2..5), 1..6)) {
        // A row of one empty field is a blank line, which is skipped; longer ones are not.
        let list = |r: &Vec<String>| Value::from(r.iter().map(|f| Value::from(f.as_str())).collect::<Vec<Value>>());
        let value = Value::from(rows.iter().map(list).collect::<Vec<Value>>());
        let back = run("return csv_decode(csv_encode($d), [\"header\" => false]);", value.clone()).unwrap();
        prop_assert!(back.strict_eq(&value), "{} {}", value.to_string_lossy(), back.to_string_lossy());
    }

    #[test]
    fn binary_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for script in [
            "base64_decode(base64_encode($d))", "base32_decode(base32_encode($d))",
            "base64url_decode(base64url_encode($d))", "url_decode(url_encode($d))", "xtext_decode(xtext_encode($d))",
            "zlib_uncompress(zlib_compress($d))", "zlib_uncompress(zlib_compress($d, 9, -15), -15)",
            "zlib_uncompress(zlib_compress($d, 1, 31), 47)", "pack(\"H*\", unpack(\"H*\", $d)[0])",
            "pack(\"C*\", ...unpack(\"C*\", $d))", "pack(\"a*\", unpack(\"a*\", $d)[0])",
            "aes_decrypt(aes_encrypt($d, str_repeat(\"k\", 32), \"ecb\"), str_repeat(\"k\", 32), \"ecb\")",
        ] {
            let back = run(&format!("return {script};"), Value::bytes(&bytes)).unwrap();
            prop_assert_eq!(text(&back), &bytes[..], "{}", script);
        }
    }

    #[test]
    fn pack_takes_any_format(format in "[aZHcCnvNVeEx0-9*q]{0,12}", data in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut input = Array::new();
        input.insert_str("f", format.as_str());
        input.insert_str("b", &data[..]);
        run("return unpack($d[\"f\"], $d[\"b\"]);", input.clone().into());
        run("return unpack($d[\"f\"], $d[\"b\"], 7);", input.clone().into());
        // A large count is a large result, which the memory limit ends.
        if !format.contains("00") && format.bytes().filter(u8::is_ascii_digit).count() < 7 {
            run("return pack($d[\"f\"], $d[\"b\"], 1, \"ff\", 2.5, -3);", input.into());
        }
    }

    #[test]
    fn mime_words_round_trip(words in ".{0,60}") {
        let plain = words.trim().replace(['\r', '\n'], "");
        // The decoder knows nothing of encoded words that were there before.
        prop_assume!(!plain.contains("=?"));
        let back = run("return mimeword_decode(mimeword_encode($d));", plain.as_str().into()).unwrap();
        prop_assert_eq!(String::from_utf8(text(&back)).unwrap(), plain);
    }

    #[test]
    fn patterns_are_bounded(pattern in "[ab().*+?|\\[\\]^$\\\\]{0,14}", subject in "[ab]{0,60}") {
        let mut input = Array::new();
        input.insert_str("p", pattern.as_str());
        input.insert_str("s", subject.as_str());
        for function in ["pcre_match", "pcre_match_all"] {
            run(&format!("return {function}($d[\"p\"], $d[\"s\"]);"), input.clone().into());
        }
        run("return pcre_replace($d[\"p\"], \"$0$1\", $d[\"s\"]);", input.into());
    }
}

#[test]
fn hostile_input_ends_soon() {
    let began = Instant::now();
    // A pattern with exponential backtracking, a bomb of aliases, deep nesting, a bomb of zeros.
    assert!(run("return pcre_match(\"(a+)+$\", str_repeat(\"a\", 5000) . \"b\");", Value::None).is_none());
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert!(run("return yaml_decode($d);", bomb.into()).unwrap().is_none());
    for deep in ["[", "{\"a\":"] {
        let text = deep.repeat(100_000);
        assert!(run("return json_decode($d);", text.as_str().into()).unwrap().is_none());
        assert!(run("return yaml_decode($d);", text.as_str().into()).unwrap().is_none());
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}
