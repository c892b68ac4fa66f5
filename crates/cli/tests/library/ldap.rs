//! `LDAP` against slapd.

use crate::servers::{Server, certificates, expect, port, run};
use std::fs;
use std::process::Command;

const ENTRIES: &str = "\
dn: dc=example,dc=test
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=Ann,dc=example,dc=test
objectClass: person
cn: Ann
sn: One
description: first
description: second

dn: cn=Bob (b),dc=example,dc=test
objectClass: person
cn: Bob (b)
sn: Two
";

#[test]
fn ldap() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    certificates(at);
    let root = at.display();
    let (plain, tls) = (port(), port());
    fs::create_dir(at.join("db")).unwrap();
    let config = format!(
        "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {root}/slapd.pid\n\
         TLSCACertificateFile {root}/ca.pem\nTLSCertificateFile {root}/server.pem\nTLSCertificateKeyFile {root}/server.key\n\
         database mdb\nsuffix dc=example,dc=test\nrootdn cn=admin,dc=example,dc=test\nrootpw secret\ndirectory {root}/db\n"
    );
    fs::write(at.join("slapd.conf"), config).unwrap();
    fs::write(at.join("entries.ldif"), ENTRIES).unwrap();
    run("/usr/sbin/slapadd", &["-f", "slapd.conf", "-l", "entries.ldif"], at);
    let unix = at.join("ldapi").display().to_string().replace('/', "%2F");
    let listen = format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls} ldapi://{unix}");
    let mut command = Command::new("/usr/sbin/slapd");
    command.args(["-d", "0", "-h", &listen, "-f"]).arg(at.join("slapd.conf"));
    let _slapd = Server::start(&mut command, plain);
    let script = format!(
        r#"
import {{ LDAP as Directory, LDAPResult }} from "extras://ldap";
import * as plugin from "extras://ldap";
echo Directory::err2string(0) . plugin::LDAP("ldap://127.0.0.1:{plain}")->errno();
$l = LDAP("ldap://127.0.0.1:1 ldap://127.0.0.1:{plain}");
echo is_object($l->setoption("network_timeout", 5)->setoption("timeout", 5)->setoption("protocol_version", 3));
echo is_object($l->bind("cn=admin,dc=example,dc=test", "secret"));
$r = $l->search("dc=example,dc=test", ["filter" => "(objectclass=person)", "attributes" => ["cn", "description"]]);
echo json_encode($r->next());
$name = $r->next();
echo $name["dn"];
echo json_encode($r->next());
foreach ($l->search("dc=example,dc=test", ["scope" => "one", "filter" => "(cn=" . LDAP::filter_escape("Bob (b)") . ")"]) as $entry)
    echo $entry["sn"][0];
echo json_encode($l->search("dc=example,dc=test", ["scope" => "base", "attributes" => ["o"]])->next());
echo json_encode([$l->search("dc=nosuch,dc=test"), $l->errno(), LDAP::err2string($l->errno())]);
echo json_encode([$l->search("dc=example,dc=test", ["filter" => "(broken"]), $l->errno()]);
echo json_encode([$l->bind("cn=admin,dc=example,dc=test", "wrong"), $l->errno()]);
echo is_string($l->getoption("diagnostic_message"));
echo is_object($l->unbind());
echo is_object(LDAP("ldap://127.0.0.1:{plain}")->bind());
$down = LDAP("ldap://127.0.0.1:1");
echo json_encode([$down->bind(), $down->errno()]);
$s = LDAP("ldaps://localhost:{tls}")->setoption("tls_default_ca", true);
echo is_object($s->bind());
echo $s->getpeerx509()->subject()[0][1];
$bad = LDAP("ldaps://localhost:{tls}");
echo json_encode($bad->bind());
echo is_object($bad->setoption("tls_verify_peer", false)->bind());
$t = LDAP("ldap://localhost:{plain}")->setoption("tls_default_ca", true);
echo is_object($t->starttls());
echo $t->getpeerx509()->issuer()[0][1];
echo is_object(LDAP("ldapi://{unix}")->bind());
echo json_encode([$t->setoption("nosuch", 1), $t->errno()]);
echo json_encode(LDAP::str2dn("cn=Bob\\, B,dc=test"));
echo LDAP::dn2str([["cn", "Bob, B"], ["dc", "test"]]);
try {{ LDAP("http://x"); }} catch ($e) {{ echo "thrown"; }}
"#
    );
    expect(
        at,
        &script,
        &[
            "Success0",
            "true",
            "true",
            "{\"dn\":\"cn=Ann,dc=example,dc=test\",\"cn\":[\"Ann\"],\"description\":[\"first\",\"second\"]}",
            "cn=Bob (b),dc=example,dc=test",
            "false",
            "Two",
            "{\"dn\":\"dc=example,dc=test\",\"o\":[\"Example\"]}",
            "[null,32,\"No such object\"]",
            "[null,-7]",
            "[null,49]",
            "true",
            "true",
            "true",
            "[null,-1]",
            "true",
            "server",
            "null",
            "true",
            "true",
            "Test CA",
            "true",
            "[null,-9]",
            "[[\"cn\",\"Bob, B\"],[\"dc\",\"test\"]]",
            "cn=Bob\\, B,dc=test",
            "thrown",
        ],
    );
}
