//! The program as an operator meets it: real processes, their exit codes, what they say and what they leave.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use qpc_protocol::client::event::Event;
use qpc_protocol::client::{Config, Stretching, UpdatePolicy};
use qpc_protocol::crypto;
use qpc_protocol::error::StoreFault;
use qpc_protocol::io::{Page, Target};
use qpc_protocol::store::batch::{Batch, Records};
use qpc_smol::store::ClientStore;
use qpc_smol::{Address, ClientHandle, ClientOptions, open};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tempfile::TempDir;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A place for one server.
struct Place {
    directory: TempDir,
}

/// A running process; killed if a test forgets it.
struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

/// What a process came to.
struct Ended {
    code: Option<i32>,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The program on a free port, in this place, without our own environment.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qpc-server"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QPC_")) {
            command.env_remove(name);
        }
        command
            .current_dir(self.directory.path())
            .env("QPC_DATA_DIR", self.data())
            .env("QPC_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&self) -> (Process, Address) {
        Process::start(&mut self.command())
    }

    /// Writes a file with that mode.
    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A certificate of our own: its two files.
    fn certificate(&self) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let cert = self.write("cert.pem", &certificate.pem(), 0o644);
        (cert, self.write("key.pem", &key.serialize_pem(), 0o600))
    }
}

impl Process {
    /// Starts it and waits for its address.
    fn start(command: &mut Command) -> (Self, Address) {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let mut process = Self { child, out };
        match line.trim_end().parse() {
            Ok(address) => (process, address),
            Err(error) => panic!("{error} in {line:?}: {}", process.wait().err),
        }
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end; a process that goes on is killed and fails the test.
    fn wait(&mut self) -> Ended {
        let start = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(start.elapsed() < Duration::from_secs(30), "still running");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        assert_eq!(out, "", "standard output holds one line");
        Ended { code, err }
    }

    fn stop(&mut self) -> Ended {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command that should fail before it listens.
fn fails(command: &mut Command, code: i32, says: &[&str]) -> String {
    let mut child = command.spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let ended = Process { child, out }.wait();
    assert_eq!(ended.code, Some(code), "{}", ended.err);
    for text in says {
        assert!(ended.err.contains(text), "no {text:?} in {}", ended.err);
    }
    assert!(!ended.err.contains(KEY) && !ended.err.contains(OTHER_KEY), "{}", ended.err);
    ended.err
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What `--print-settings` says.
fn settings(command: &mut Command) -> toml::Table {
    let output = command.arg("--print-settings").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

#[test]
fn a_server_starts_is_the_same_after_a_restart_and_ends_by_sigterm() {
    let place = Place::new();
    let (mut process, first) = place.start();
    assert_eq!(first.host, "127.0.0.1");
    assert_ne!(first.port, 0);
    let ended = process.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("DEVELOPMENT CERTIFICATE"), "{}", ended.err);

    let (mut process, again) = place.start();
    assert_eq!(again.pin, first.pin, "clients know the server again");
    process.signal("INT");
    assert_eq!(process.wait().code, Some(0));

    assert_eq!(mode(&place.data()), 0o700);
    for file in fs::read_dir(place.data()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_killed_server_leaves_nothing_in_the_way() {
    let place = Place::new();
    let (mut process, first) = place.start();
    process.signal("KILL");
    process.wait();
    let (mut process, again) = place.start();
    assert_eq!(again.pin, first.pin);
    assert_eq!(process.stop().code, Some(0));
}

/// A client of the test's own.
fn client(address: &Address) -> (ClientHandle, Receiver<Event>) {
    struct Nowhere;
    impl ClientStore for Nowhere {
        fn apply(&mut self, _: &Batch) -> Result<(), StoreFault> {
            Ok(())
        }
        fn load(&mut self, _: &Page) -> Result<Records, StoreFault> {
            Ok(Records::new())
        }
    }
    let config = Config {
        backend: crypto::fast(),
        server: Target(address.to_string()),
        stretching: Stretching { memory_kib: 64, passes: 1, lanes: 1 },
        insecure_plain: false,
        auto_connect: true,
        propose_first: false,
        update: UpdatePolicy::default(),
    };
    let mut options = ClientOptions::new(config);
    options.probe_time = Some(Duration::from_millis(500));
    open(options, Box::new(Nowhere)).unwrap()
}

/// Waits for an event of that kind.
fn wait_for(events: &Receiver<Event>, kind: impl Fn(&Event) -> bool) {
    let late = async {
        smol::Timer::after(Duration::from_secs(20)).await;
        panic!("no such event");
    };
    let seen = async {
        while let Ok(event) = events.recv().await {
            if kind(&event) {
                return;
            }
        }
        panic!("no more events");
    };
    smol::block_on(smol::future::or(seen, late));
}

#[test]
fn an_idle_client_notices_that_its_server_was_killed_and_started_again() {
    let place = Place::new();
    let (mut process, address) = place.start();
    let (handle, events) = client(&address);
    let registered = smol::block_on(
        handle.run(|client, now| client.register(now, "alice", "secret".to_owned().into())),
    );
    registered.unwrap().unwrap();
    wait_for(&events, |event| matches!(event, Event::Online { .. }));
    process.signal("KILL");
    process.wait();
    let start = Instant::now();
    let (mut process, again) =
        Process::start(place.command().args(["--listen", &format!("127.0.0.1:{}", address.port)]));
    assert_eq!(again, address);
    // The server before could not say goodbye, and the idle timeout is a minute: the new one tells.
    wait_for(&events, |event| matches!(event, Event::Offline { last: false, .. }));
    wait_for(&events, |event| matches!(event, Event::Online { .. }));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    smol::block_on(handle.stop()).unwrap();
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn the_json_line_says_the_same() {
    let place = Place::new();
    let mut child = place.command().arg("--json").spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let mut process = Process { child, out };
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address: Address = line["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(line["pin"], address.pin.unwrap().to_string());
    assert_eq!(line["listen"], format!("127.0.0.1:{}", address.port));
    assert_eq!(line["process"], process.child.id());
    assert_eq!(line["server"].as_str().unwrap().len(), 64);
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn each_place_of_settings_overrides_the_one_before() {
    let place = Place::new();
    let file = place.write(
        "qpc.toml",
        "retention = '1h'\nconnections = 1\nlog = 'warn'\nproduction = true",
        0o644,
    );
    let command = || {
        let mut command = place.command();
        command.env("QPC_CONFIG", &file);
        command
    };
    let default = settings(&mut place.command());
    assert_eq!(default["retention"].as_str(), Some("7d"));
    let from_file = settings(&mut command());
    assert_eq!(from_file["retention"].as_str(), Some("1h"));
    assert_eq!(from_file["connections"].as_integer(), Some(1));
    let from_variables =
        settings(command().env("QPC_CONNECTIONS", "2").env("QPC_PRODUCTION", "false"));
    assert_eq!(from_variables["retention"].as_str(), Some("1h"));
    assert_eq!(from_variables["connections"].as_integer(), Some(2));
    assert_eq!(from_variables["production"].as_bool(), Some(false));
    let from_flags = settings(command().env("QPC_CONNECTIONS", "2").args(["--connections", "3"]));
    assert_eq!(from_flags["connections"].as_integer(), Some(3));
    assert_eq!(from_flags["log"].as_str(), Some("warn"));
    let by_flag = settings(command().args(["--production=false"]));
    assert_eq!(by_flag["production"].as_bool(), Some(false));
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let place = Place::new();
    let help = place.command().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let names: Vec<_> =
        help.split("[env: ").skip(1).map(|rest| rest.split(']').next().unwrap()).collect();
    assert!(names.len() > 10 && names.contains(&"QPC_STORE_BACKEND"), "{names:?}");
    let default = settings(place.command().env_remove("QPC_LISTEN").env_remove("QPC_DATA_DIR"));
    assert_eq!(settings(place.command().envs(names.iter().map(|name| (name, "")))), default);
    // The database's key too, but not in production.
    let (mut process, _) = Process::start(place.command().env("QPC_DB_KEY", ""));
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn the_store_goes_by_its_name() {
    let place = Place::new();
    let backend =
        |command: &mut Command| settings(command)["store-backend"].as_str().unwrap().to_owned();
    assert_eq!(backend(&mut place.command()), "sqlcipher");
    let file = place.write("qpc.toml", "store_backend = 'memory'", 0o644);
    assert_eq!(backend(place.command().arg("--config").arg(&file)), "memory");
    assert_eq!(backend(place.command().env("QPC_STORE_BACKEND", "memory")), "memory");
    let by_flag = ["--store-backend", "sqlcipher"];
    assert_eq!(
        backend(place.command().env("QPC_STORE_BACKEND", "memory").args(by_flag)),
        "sqlcipher"
    );
    let other = ["postgres", "sqlcipher", "memory"];
    fails(place.command().args(["--store-backend", "postgres"]), 2, &other);
    fails(place.command().env("QPC_STORE_BACKEND", "postgres"), 2, &other);
    place.write("qpc.toml", "store_backend = 'postgres'", 0o644);
    fails(place.command().arg("--config").arg(&file), 2, &other);
    place.write("qpc.toml", "db_key = '00'", 0o644);
    fails(place.command().arg("--config").arg(&file), 2, &["db_key", "QPC_DB_KEY", "db-key-file"]);
}

#[test]
fn settings_that_do_not_hold_are_named() {
    let place = Place::new();
    fails(place.command().arg("--lisen"), 2, &["--lisen"]);
    fails(place.command().args(["--retention", "soon"]), 2, &["--retention", "7d"]);
    fails(place.command().env("QPC_CONNECTIONS", "many"), 2, &["many"]);
    fails(place.command().args(["--config", "missing.toml"]), 2, &["missing.toml", "--config"]);
    let file = place.write("bad.toml", "retention = '1h'\nlisen = '::'\n", 0o644);
    fails(place.command().arg("--config").arg(&file), 2, &["bad.toml", "lisen", "line 2"]);
    fails(place.command().args(["--log", "a=b=c"]), 2, &["log filter"]);
    fails(place.command().args(["--cert", "cert.pem"]), 2, &["--key"]);
    assert!(!place.data().exists(), "nothing is made before the settings hold");
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fails(place.command().args(["--listen", &address]), 3, &[&address, "--listen"]);
}

#[test]
fn a_second_process_keeps_off_the_data_directory() {
    let place = Place::new();
    let (mut process, _) = place.start();
    fails(&mut place.command(), 6, &["in use", "--data-dir"]);
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn a_wrong_database_key_is_told_and_changes_nothing() {
    let place = Place::new();
    let with = |key: &str| {
        let mut command = place.command();
        command.env("QPC_DB_KEY", key);
        command
    };
    let (mut process, first) = Process::start(&mut with(KEY));
    assert_eq!(process.stop().code, Some(0));
    assert!(!place.data().join("db.key").exists(), "a key that was given is not written down");
    let wrong = fails(&mut with(OTHER_KEY), 5, &["does not open", "QPC_DB_KEY"]);
    assert!(!wrong.contains("ERROR CORE"), "SQLCipher speaks for itself: {wrong}");
    let no_text = OsStr::from_bytes(&[0xff; 64]);
    fails(place.command().env("QPC_DB_KEY", no_text), 5, &["QPC_DB_KEY", "64 hexadecimal digits"]);
    fails(&mut with("0011"), 5, &["QPC_DB_KEY", "64 hexadecimal digits"]);
    fails(&mut place.command(), 5, &["missing", "--db-key-file"]);
    // Without the sealed secrets the database is still there, and still closed.
    let sealed = place.data().join("secrets.sealed");
    let kept = fs::read(&sealed).unwrap();
    fs::remove_file(&sealed).unwrap();
    fails(&mut with(KEY), 5, &["secrets.sealed", "backup"]);
    fs::write(&sealed, kept).unwrap();
    let (mut process, again) = Process::start(&mut with(KEY));
    assert_eq!(again.pin, first.pin);
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let place = Place::new();
    let file = place.write("db.key", KEY, 0o640);
    fails(place.command().arg("--db-key-file").arg(&file), 5, &["640", "chmod 600"]);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let (mut process, _) = Process::start(place.command().arg("--db-key-file").arg(&file));
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn damaged_files_are_told() {
    let place = Place::new();
    let (mut process, _) = place.start();
    assert_eq!(process.stop().code, Some(0));
    let database = place.data().join("server.db");
    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() - 100]).unwrap();
    fails(&mut place.command(), 5, &["server.db", "backup"]);
    fs::write(&database, &whole).unwrap();
    let certificate = place.data().join("development-certificate.pem");
    fs::write(&certificate, "nothing").unwrap();
    fails(&mut place.command(), 4, &["development-certificate.pem"]);
}

#[test]
fn given_certificates_are_used_and_bad_ones_told() {
    let place = Place::new();
    let (cert, key) = place.certificate();
    let with = |cert: &Path, key: &Path| {
        let mut command = place.command();
        command.arg("--cert").arg(cert).arg("--key").arg(key);
        command
    };
    let (mut process, address) = Process::start(&mut with(&cert, &key));
    let ended = process.stop();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.err.contains("DEVELOPMENT"), "{}", ended.err);
    let (mut process, own) = place.start();
    assert_eq!(process.stop().code, Some(0));
    assert_ne!(own.pin, address.pin);

    fails(&mut with(&key, &key), 4, &["key.pem", "certificate"]);
    fails(&mut with(&cert, &cert), 4, &["private key"]);
    fails(&mut with(&cert, &place.path("missing.pem")), 6, &["missing.pem"]);
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let other = place.write("other.pem", &other, 0o600);
    fails(&mut with(&cert, &other), 4, &["together"]);
}

#[test]
fn production_refuses_what_is_for_development() {
    let place = Place::new();
    let (cert, key) = place.certificate();
    let production = || {
        let mut command = place.command();
        command.env("QPC_PRODUCTION", "true");
        command
    };
    fails(&mut production(), 4, &["--cert"]);
    let with = |cert: &Path, key: &Path| {
        let mut command = production();
        command.arg("--cert").arg(cert).arg("--key").arg(key);
        command
    };
    fails(&mut with(&cert, &key), 5, &["key is missing"]);
    fails(with(&cert, &key).env("QPC_DB_KEY", ""), 5, &["64 hexadecimal digits"]);
    fails(with(&cert, &key).args(["--store-backend", "memory"]), 4, &["memory"]);
    let (mut process, _) = Process::start(with(&cert, &key).env("QPC_DB_KEY", KEY));
    assert_eq!(process.stop().code, Some(0));

    // Nor a certificate that the server made itself, under whatever name.
    let (mut process, _) = Process::start(place.command().env("QPC_DB_KEY", KEY));
    assert_eq!(process.stop().code, Some(0));
    let made = place.data().join("development-certificate.pem");
    fails(with(&made, &made).env("QPC_DB_KEY", KEY), 4, &["development"]);
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let place = Place::new();
    let file = place.write("file", "", 0o600);
    fails(place.command().arg("--data-dir").arg(&file), 6, &["file"]);
}

#[test]
fn the_log_is_json_if_asked_and_goes_by_its_filter() {
    let place = Place::new();
    let (mut process, _) = Process::start(place.command().args(["--log-format", "json"]));
    let ended = process.stop();
    assert!(ended.err.lines().count() >= 3);
    for line in ended.err.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string());
    }
    let (mut process, _) = Process::start(place.command().env("QPC_LOG", "off"));
    assert_eq!(process.stop().err, "");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let place = Place::new();
    let output = place.command().arg("--help").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["Exit codes:", "Examples:", "--production", "QPC_DB_KEY", "130"] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn no_secret_is_logged_at_trace() {
    let place = Place::new();
    let (mut process, _) =
        Process::start(place.command().env("QPC_LOG", "trace").env("QPC_DB_KEY", KEY));
    let ended = process.stop();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.err.contains(KEY));
    let pem = fs::read_to_string(place.data().join("development-certificate.pem")).unwrap();
    let secret = pem.split("PRIVATE KEY-----").nth(1).unwrap().lines().nth(1).unwrap();
    assert!(secret.len() > 40 && !ended.err.contains(secret));
}
