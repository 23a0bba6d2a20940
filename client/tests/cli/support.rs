//! A server process, homes, and `qpc` itself.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest time that one command may take; only a defect takes so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Sets the wall clock of a process forward, see `qpc_server::clock`.
const DAYS_AHEAD: &str = "QPC_DAYS_AHEAD";

/// A place with a server and homes; all of it goes when this goes.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) server: Option<Child>,
    pub(crate) address: String,
    traced: bool,
    /// The server's, beside the usual ones.
    arguments: Vec<OsString>,
    /// The largest file that the server may write, in the blocks of `ulimit -f`.
    pub(crate) limit: Option<u32>,
    /// A variable of the server's environment.
    pub(crate) extra: Option<(&'static str, String)>,
    /// How many days ahead the clocks are: the server's once it is started again, a device's from when it is asked for.
    pub(crate) days: u32,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(false, |_| Vec::new())
    }

    /// With a server that logs all it can.
    pub(crate) fn traced() -> Self {
        Self::with(true, |_| Vec::new())
    }

    /// With a server of that certificate chain and key.
    pub(crate) fn certified(make: impl FnOnce(&Path) -> [PathBuf; 2]) -> Self {
        Self::with(false, |dir| {
            let [chain, key] = make(dir);
            vec!["--cert".into(), chain.into(), "--key".into(), key.into()]
        })
    }

    fn with(traced: bool, arguments: impl FnOnce(&Path) -> Vec<OsString>) -> Self {
        let mut place = Self::unstarted();
        place.arguments = arguments(place.dir.path());
        place.traced = traced;
        // Certificates are for one address.
        let certified = !place.arguments.is_empty();
        place.start(&if certified { "127.0.0.1:0".to_owned() } else { fresh_address() });
        place
    }

    pub(crate) fn unstarted() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            server: None,
            address: String::new(),
            traced: false,
            arguments: Vec::new(),
            limit: None,
            extra: None,
            days: 0,
        }
    }

    pub(crate) fn start(&mut self, listen: &str) {
        let began = Instant::now();
        let line = loop {
            let mut child = self.spawn(listen);
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if !line.is_empty() {
                self.server = Some(child);
                break line;
            }
            child.wait().unwrap();
            // It was to die before it could say anything, or another process has its port for the moment.
            self.extra = None;
            assert!(began.elapsed() < PATIENCE, "the server does not start");
            thread::sleep(Duration::from_millis(5));
        };
        let line: Value = serde_json::from_str(&line).unwrap();
        self.address = line["address"].as_str().unwrap().to_owned();
    }

    fn spawn(&self, listen: &str) -> Child {
        let log = self.dir.path().join("server.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = bare();
        if self.traced {
            trace(&mut command);
        }
        command
            .args(["__serve", "--json", "--listen", listen, "--logins-per-account", "1000"])
            .args(["--logins-per-source", "1000", "--data-dir"])
            .arg(self.dir.path().join("server"))
            .args(&self.arguments)
            .env(DAYS_AHEAD, self.days.to_string())
            .envs(self.extra.clone());
        if let Some(blocks) = self.limit {
            command = limited(&command, blocks);
        }
        command.stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// On the same port and data.
    pub(crate) fn restart_server(&mut self) {
        let listen = match self.address.split_once('#') {
            Some((place, _)) => place.strip_prefix("qpc://").unwrap().to_owned(),
            None => fresh_address(),
        };
        self.start(&listen);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A device in the home of that name. Its password is `<name>'s password`.
    pub(crate) fn device(&self, name: &str) -> Device {
        let password = self.path(&format!("{name}.password"));
        std::fs::write(&password, format!("{name}'s password\n")).unwrap();
        Device {
            home: self.path(name),
            password,
            key_file: Some(self.path(&format!("{name}.key"))),
            days: self.days,
        }
    }

    /// A registered device.
    pub(crate) fn registered(&self, name: &str) -> Device {
        let device = self.device(name);
        device.ok(&["register", name, "--server", &self.address]);
        device
    }

    /// Alice with a group called `team`, and Bob in it.
    pub(crate) fn team(&self) -> (Device, Device) {
        let (alice, bob) = (self.registered("alice"), self.registered("bob"));
        alice.ok(&["group", "create", "team"]);
        alice.ok(&["group", "invite", "team", "bob"]);
        (alice, bob)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failure left behind can be looked at.
        if thread::panicking() && std::env::var_os("QPC_KEEP").is_some() {
            eprintln!("kept in {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
        }
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// A home, and how it is opened.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) home: PathBuf,
    pub(crate) password: PathBuf,
    pub(crate) key_file: Option<PathBuf>,
    /// How many days ahead its clock is.
    pub(crate) days: u32,
}

pub(crate) fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qpc"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QPC_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The same under `ulimit -f`: a write beyond that many blocks (of 512 or 1,024 bytes, as the shell has it) fails. No
/// privilege is needed for that.
pub(crate) fn limited(command: &Command, blocks: u32) -> Command {
    let mut shell = Command::new("sh");
    // Without the trap the signal ends the process instead.
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    shell.arg("-c").arg(script).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// Logs all it can.
pub(crate) fn trace(command: &mut Command) -> &mut Command {
    command.env("QPC_LOG", "trace").env("RUST_LOG", "trace")
}

/// `qpc` without any home.
pub(crate) fn qpc(arguments: &[&str]) -> Done {
    finish(bare().args(arguments).spawn().unwrap())
}

impl Device {
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare();
        command.arg("--home").arg(&self.home).env("QPC_PASSWORD_FILE", &self.password);
        command.env(DAYS_AHEAD, self.days.to_string());
        if let Some(file) = &self.key_file {
            command.arg("--key-file").arg(file);
        }
        command.args(arguments);
        command
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdin(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// Runs a command that must succeed, with --json; returns its objects.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Vec<Value> {
        let done = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(done.code, 0, "{arguments:?}: {}{}", done.out, done.err);
        done.objects()
    }

    /// Runs a command that must fail; returns its exit code and the error's code and name.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let done = self.run(&[arguments, &["--json"]].concat());
        let error = done.error();
        let name =
            format!("{} {}", error["code"].as_str().unwrap(), error["name"].as_str().unwrap());
        assert_eq!(error["exit"], done.code, "{error}");
        (done.code, name)
    }

    pub(crate) fn send(&self, group: &str, text: &str) -> u64 {
        self.ok(&["send", group, text])[0]["seq"].as_u64().unwrap()
    }

    /// The texts of what is unread.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |message: &Value| message["text"].as_str().unwrap().to_owned();
        self.ok(&["recv"]).iter().map(text).collect()
    }
}

/// What a process came to.
#[derive(Debug)]
pub(crate) struct Done {
    /// -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn objects(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The error object: the last line of standard error.
    pub(crate) fn error(&self) -> Value {
        let line = self.err.lines().last().unwrap_or_else(|| panic!("no error: {self:?}"));
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}"));
        assert_eq!(value["type"], "error");
        value
    }
}

/// Waits for a process to end; one that does not end is killed, and the test fails.
pub(crate) fn finish(mut child: Child) -> Done {
    drop(child.stdin.take());
    let out = drained(child.stdout.take());
    let err = drained(child.stderr.take());
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() > PATIENCE => {
                child.kill().unwrap();
                panic!("it does not end: {}{}", out.join().unwrap(), err.join().unwrap());
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let code = status.code().unwrap_or(-1);
    Done { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

fn drained<R: std::io::Read + Send + 'static>(from: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut from) = from {
            from.read_to_string(&mut text).unwrap();
        }
        text
    })
}

/// Gives a process its whole input.
pub(crate) fn with_input(mut child: Child, input: &str) -> Done {
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finish(child)
}

/// Sends a process a signal.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Copies what is in a folder into another, which is made unless it is there.
pub(crate) fn copy(from: &Path, to: &Path) {
    let mode = std::fs::metadata(from).unwrap().permissions();
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, mode).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let at = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &at);
        } else {
            std::fs::copy(&path, &at).unwrap();
        }
    }
}

/// A home is again as it was when it was copied.
pub(crate) fn put_back(device: &Device, copied: &Path) {
    std::fs::remove_dir_all(&device.home).unwrap();
    copy(copied, &device.home);
}

pub(crate) fn holds(dir: &Path, needle: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

/// Where a new server listens. Each has an address of its own, as far as the system has several for the loopback: while
/// one is killed another must not get its port, and be taken for it by who knows both by the same key.
fn fresh_address() -> String {
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    if cfg!(not(target_os = "linux")) {
        return "127.0.0.1:0".to_owned();
    }
    let server = SERVERS.fetch_add(1, Ordering::Relaxed);
    let (process, high, low) = (std::process::id() % 250, server / 250 % 250, server % 250);
    format!("127.{}.{}.{}:0", process + 1, high, low + 1)
}
