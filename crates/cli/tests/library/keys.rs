//! Cryptography of scripts beside OpenSSL's own program: what one signs the other verifies, and keys of the
//! configuration are found by their id.

use std::fs;
use std::path::Path;
use std::process::Command;

fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hsh(folder: &Path, options: &[&str], script: &str) -> String {
    fs::write(folder.join("a.hsl"), script).unwrap();
    run(env!("CARGO_BIN_EXE_hsh"), &[&["-R", "."], options, &["a.hsl"]].concat(), folder)
}

#[test]
fn signatures_and_messages_agree_with_openssl() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, kind) in [("rsa", "rsa:2048"), ("ec", "ec")] {
        let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        let mut request =
            vec!["req", "-x509", "-newkey", kind, "-nodes", "-subj", &subject, "-keyout", &key, "-out", &pem];
        if name == "ec" {
            request.extend(["-pkeyopt", "ec_paramgen_curve:P-384"]);
        }
        run("openssl", &request, at);
    }
    run("openssl", &["genrsa", "-out", "small.key", "512"], at);
    run("openssl", &["rsa", "-in", "rsa.key", "-pubout", "-out", "rsa.pub"], at);
    fs::write(at.join("m"), "a message\r\n").unwrap();
    for hash in ["md5", "sha1", "sha256", "sha512"] {
        let script = format!(
            "echo base64_encode(rsa_sign(File::read(\"m\"), rsa_privatekey(File::read(\"rsa.key\")), [\"hash\" => \"{hash}\"]));"
        );
        let text = hsh(at, &["-c", "/dev/null"], &script);
        fs::write(at.join("sig.b64"), &text).unwrap();
        run("openssl", &["base64", "-d", "-A", "-in", "sig.b64", "-out", "sig"], at);
        // The raw form, because the digest may be refused by the policy of the system.
        let recovered =
            ["pkeyutl", "-verifyrecover", "-pubin", "-inkey", "rsa.pub", "-in", "sig", "-out", "info"];
        run("openssl", &recovered, at);
        let digest = run("openssl", &["dgst", &format!("-{hash}"), "-r", "m"], at);
        let digest = digest.split(' ').next().unwrap();
        let info: String = fs::read(at.join("info")).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert!(info.ends_with(digest), "{hash}: {info} {digest}");
        run("openssl", &["dgst", &format!("-{hash}"), "-sign", "rsa.key", "-out", "theirs", "m"], at);
        let script = format!(
            "echo json_encode(rsa_verify(File::read(\"m\"), File::read(\"theirs\"), File::read(\"rsa.pub\"), [\"hash\" => \"{hash}\", \
             \"pem\" => true, \"format\" => \"SubjectPublicKeyInfo\"]));"
        );
        assert_eq!(hsh(at, &["-c", "/dev/null"], &script), "true\n", "{hash}");
    }
    let script = r#"echo json_encode(rsa_sign("x", File::read("small.key"), ["pem" => true]));"#;
    assert_eq!(hsh(at, &["-c", "/dev/null"], script), "null\n");
    // Sealed for an elliptic curve, signed by both kinds of key.
    let script = r#"
function me($name) {
    $key = File::read("$name.key");
    return ["x509" => X509::String(File::read("$name.pem"), ["pem" => true])->toResource(), "privatekey" => rsa_privatekey($key) ?? ec_privatekey($key)];
}
$sealed = cms_encrypt(File::read("m"), ["certs" => [me("ec")["x509"], me("rsa")["x509"]]], ["cipher" => "aes-128-cbc"]);
echo base64_encode($sealed["data"]);
echo base64_encode(cms_sign(File::read("m"), me("ec"), ["digest" => "sha384"])["data"]);
echo base64_encode(pkcs7_sign(File::read("m"), me("rsa"), ["detached" => false]));
"#;
    let out = hsh(at, &["-c", "/dev/null"], script);
    for (name, line) in ["sealed", "signed", "opaque"].iter().zip(out.lines()) {
        fs::write(at.join(format!("{name}.b64")), line).unwrap();
        run("openssl", &["base64", "-d", "-A", "-in", &format!("{name}.b64"), "-out", name], at);
    }
    for name in ["ec", "rsa"] {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let open =
            ["cms", "-decrypt", "-inform", "DER", "-in", "sealed", "-inkey", &key, "-recip", &pem, "-binary"];
        assert_eq!(run("openssl", &open, at), "a message\r\n");
    }
    let check = [
        "cms", "-verify", "-inform", "DER", "-in", "signed", "-content", "m", "-binary", "-CAfile", "ec.pem",
    ];
    assert_eq!(run("openssl", &check, at), "a message\r\n");
    let check = ["smime", "-verify", "-inform", "DER", "-in", "opaque", "-CAfile", "rsa.pem", "-binary"];
    assert_eq!(run("openssl", &check, at), "a message\r\n");
}

#[test]
fn keys_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run(
        "openssl",
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=k", "-keyout", "k.key", "-out",
            "k.pem",
        ],
        at,
    );
    run("openssl", &["genrsa", "-out", "other.key", "2048"], at);
    let root = at.display();
    let startup = |key: &str| {
        format!(
            "version: '1.0'\nservers: []\npki: {{private: [{{id: k, privatekey: {{path: '{root}/{key}'}}, certificate: {{path: '{root}/k.pem'}}}}]}}\n"
        )
    };
    fs::write(at.join("app.yaml"), "{}").unwrap();
    fs::write(at.join("smtpd.yaml"), startup("k.key")).unwrap();
    let script = r#"
$s = rsa_sign("m", "k", ["id" => true]);
echo rsa_verify("m", $s, "k", ["id" => true]);
echo $s === rsa_sign("m", File::read("k.key"), ["pem" => true]);
echo json_encode(rsa_sign("m", "nosuch", ["id" => true]));
$c = X509::String(File::read("k.pem"), ["pem" => true]);
echo cms_verify(cms_sign("m", "k", ["id" => true])["data"], "m", ["store" => [$c]])["result"];
echo cms_decrypt(cms_encrypt("m", ["certs" => [$c]])["data"], "k", ["id" => true])["data"];
try { http("https://127.0.0.1:1/", ["tls_client_cert" => "nosuch"]); } catch ($e) { echo $e->message(); }
"#;
    let options = ["-c", "smtpd.yaml", "-A", "app.yaml"];
    assert_eq!(
        hsh(at, &options, script),
        "true\ntrue\nnull\ntrue\nm\nOption 'tls_client_cert': no key with id 'nosuch' is configured\n"
    );
    fs::write(at.join("smtpd.yaml"), startup("other.key")).unwrap();
    fs::write(at.join("b.hsl"), "").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_hsh")).args(options).arg("b.hsl").current_dir(at).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2)
            && errors.contains("/pki/private/k: certificate: it is of another key"),
        "{errors}"
    );
}

#[test]
fn the_running_file_completes_keys() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["k", "l"] {
        let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        let request = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &pem,
        ];
        run("openssl", &request, at);
    }
    let root = at.display();
    let startup = format!(
        "version: '1.0'\nservers: []\npki: {{private: [{{id: k, privatekey: {{path: '{root}/k.key'}}}}]}}\n"
    );
    fs::write(at.join("smtpd.yaml"), startup).unwrap();
    let app = format!(
        "pki: {{private: [{{id: k, certificate: {{path: '{root}/k.pem'}}}}, {{id: l, privatekey: {{path: '{root}/l.key'}}, \
         certificate: {{path: '{root}/l.pem'}}}}]}}\n"
    );
    fs::write(at.join("app.yaml"), &app).unwrap();
    let script = r#"
foreach (["k", "l"] as $id) {
    $signed = cms_sign("m", $id, ["id" => true]);
    echo json_encode($signed["result"]);
    if (!$signed["result"]) continue;
    $store = [X509::String(File::read("$id.pem"), ["pem" => true])];
    echo json_encode(cms_verify($signed["data"], "m", ["store" => $store])["result"]);
}
"#;
    assert_eq!(hsh(at, &["-c", "smtpd.yaml", "-A", "app.yaml"], script), "true\ntrue\ntrue\ntrue\n");
    // Without the startup file there is only what the running file has itself.
    fs::write(at.join("app.yaml"), app.replace("{id: k,", "{id: other, privatekey: {path: 'k.key'},"))
        .unwrap();
    assert_eq!(hsh(at, &["-c", "/dev/null", "-A", "app.yaml"], script), "false\ntrue\ntrue\n");
    fs::write(at.join("app.yaml"), &app).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "-A", "app.yaml", "a.hsl"])
        .current_dir(at)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("/pki/private/k: no private key, neither here nor in the startup file"),
        "{errors}"
    );
}
