//! No log, and no file of a server, holds what only members may know: what was said, what opens an account, what
//! opens what was said.

use std::path::Path;
use std::time::{Duration, Instant};

use qpc_protocol::crypto::{self, seal};
use qpc_protocol::store::record;
use qpc_protocol::wire::message::Tokens;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::search::Secrets;
use crate::support::{Device, Done, Place, finish, signal, trace};

const TEXTS: [&str; 4] = [
    "the heron stands in the shallows",
    "seven bells and no wind at all",
    "what the lighthouse keeper wrote",
    "a line while the server was away",
];
const GROUP: &str = "the society of quiet harbours";
const PASSWORDS: [&str; 2] = ["correct-Pelikan-battery-9", "a-guess-that-is-Wrong-81"];

/// The key that an SQLCipher file opens with.
fn open(file: &Path, key: &[u8]) -> Connection {
    let db = Connection::open(file).unwrap();
    let hex = data_encoding::HEXLOWER.encode(key);
    db.execute_batch(&format!("PRAGMA key = \"x'{hex}'\"")).unwrap();
    db
}

/// The records of a device, read as the device itself reads them.
fn records(device: &Device) -> Vec<(Vec<u8>, Vec<u8>)> {
    let file = std::fs::read(device.home.join("key")).unwrap();
    let sealed =
        file.strip_prefix(b"qpc-home-key-1\n").unwrap().split_last_chunk::<32>().unwrap().0;
    let context = b"qpc-home-key-v1";
    let key = match &device.key_file {
        Some(by) => {
            let by = std::fs::read(by).unwrap();
            seal::open_with_key(crypto::fast(), &by.try_into().unwrap(), sealed, context).unwrap()
        }
        None => {
            let password = std::fs::read_to_string(&device.password).unwrap();
            seal::open(crypto::fast(), password.trim().as_bytes(), sealed, context).unwrap()
        }
    };
    let db = open(&device.home.join("state.db"), &key);
    let mut all = db.prepare("SELECT key, value FROM records").unwrap();
    let rows = all.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// All that a server has stored, decrypted; from a copy, while it may be at work.
fn stored(data: &Path) -> Vec<u8> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match copied(data) {
            Ok(rows) => return rows,
            // A checkpoint came between the copies of the two files.
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

fn copied(data: &Path) -> rusqlite::Result<Vec<u8>> {
    let hex = std::fs::read_to_string(data.join("db.key")).unwrap();
    let key = data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["server.db", "server.db-wal"] {
        std::fs::copy(data.join(name), dir.path().join(name)).unwrap();
    }
    let db = open(&dir.path().join("server.db"), &key);
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
    let mut tables = db.prepare(tables)?;
    let tables: Result<Vec<String>, _> = tables.query_map((), |row| row.get(0))?.collect();
    let mut out = Vec::new();
    for name in tables? {
        let mut all = db.prepare(&format!("SELECT * FROM {name}"))?;
        let columns = all.column_count();
        let mut rows = all.query(())?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                if let ValueRef::Blob(bytes) | ValueRef::Text(bytes) = row.get_ref(column)? {
                    out.extend_from_slice(bytes);
                }
                out.push(0);
            }
        }
    }
    Ok(out)
}

/// A conversation of which everything is logged, and what must not be found of it.
struct Story {
    place: Place,
    /// Everything that the clients logged.
    log: Vec<u8>,
    /// What neither a log may hold nor the server.
    secrets: Secrets,
    /// The devices' records: keys, ratchets, whole groups. They hold public things too, which a server knows.
    records: Secrets,
    seen: usize,
    /// What the server had stored after each step.
    served: Vec<Vec<u8>>,
}

impl Story {
    fn new() -> Self {
        let mut secrets = Secrets::default();
        for text in TEXTS.into_iter().chain(PASSWORDS).chain([GROUP]) {
            secrets.text(text, text);
        }
        Self {
            place: Place::traced(),
            log: Vec::new(),
            secrets,
            records: Secrets::default(),
            seen: 0,
            served: Vec::new(),
        }
    }

    fn device(&self, name: &str, password: &str, by_password: bool) -> Device {
        let mut device = self.place.device(name);
        std::fs::write(&device.password, format!("{password}\n")).unwrap();
        if by_password {
            device.key_file = None;
        }
        device
    }

    /// Takes the log of a process that has ended, and looks at what its device has now.
    fn note(&mut self, device: &Device, done: &Done) {
        self.log.extend_from_slice(done.err.as_bytes());
        self.served.push(stored(&self.place.path("server")));
        if !device.home.join("config.toml").exists() {
            return;
        }
        for (key, value) in records(device) {
            self.seen += 1;
            match key.as_slice() {
                b"d/tokens" => {
                    let tokens: Tokens = record::decode(&key, &value).unwrap();
                    self.secrets.text("an access token", tokens.access.0.to_vec());
                    self.secrets.text("a refresh token", tokens.refresh.0.to_vec());
                    // The MAC alone, and the random part alone.
                    self.secrets
                        .bytes("an access token", tokens.access.0.last_chunk::<32>().unwrap());
                    self.secrets.bytes("a refresh token", &tokens.refresh.0[1..]);
                }
                b"d/identity" => self.identity(&value),
                _ => {
                    let shown = key.get(..2).unwrap_or_default().escape_ascii().to_string();
                    self.records.bytes(&format!("a record under {shown}"), &value);
                }
            }
        }
    }

    /// The seeds of the account key, the device key and the envelope keys: the private parts of the record.
    fn identity(&mut self, value: &[u8]) {
        #[derive(serde::Deserialize)]
        #[expect(dead_code, reason = "the fields before the last one have to be read")]
        struct Identity {
            username: String,
            server: [u8; 32],
            account_seed: [u8; 32],
            account: [u8; 32],
            device_seed: [u8; 32],
            device: [u8; 32],
            record: Vec<u8>,
            envelope: [[u8; 32]; 3],
            sequence: u32,
            registered: bool,
            ended: bool,
        }
        let identity: Identity = record::decode(b"d/identity", value).unwrap();
        // The layout is the one that is meant: the seeds make these keys.
        for (seed, public) in
            [(identity.account_seed, identity.account), (identity.device_seed, identity.device)]
        {
            assert_eq!(crypto::fast().ed25519_public(&seed), public);
        }
        self.secrets.bytes("an account key", &identity.account_seed);
        self.secrets.bytes("a device key", &identity.device_seed);
        for half in identity.envelope {
            self.secrets.bytes("an envelope key", &half);
        }
    }

    fn run(&mut self, device: &Device, arguments: &[&str], code: i32) -> String {
        let mut command = device.command(arguments);
        let done = finish(trace(command.arg("--json")).spawn().unwrap());
        assert_eq!(done.code, code, "{arguments:?}: {}", done.out);
        self.note(device, &done);
        done.out
    }

    /// Registration by password and by key file, a wrong password, a second device, invitations, messages both ways,
    /// a live reader, a server that is killed, a removal, a revocation, a logout.
    fn tell(&mut self) -> [Device; 3] {
        let server = self.place.address.clone();
        let alice = self.device("alice", PASSWORDS[0], true);
        let second = self.device("second", PASSWORDS[0], false);
        let bob = self.device("bob", PASSWORDS[0], false);
        let wrong = self.device("wrong", PASSWORDS[1], false);
        self.run(&alice, &["register", "alice", "--server", &server], 0);
        self.run(&bob, &["register", "bob", "--server", &server], 0);
        self.run(&wrong, &["login", "alice", "--server", &server], 4);
        self.run(&second, &["login", "alice", "--server", &server], 0);
        self.run(&bob, &["group", "create", GROUP], 0);
        self.run(&bob, &["group", "invite", GROUP, "alice"], 0);
        self.run(&bob, &["send", GROUP, TEXTS[0]], 0);
        assert!(self.run(&alice, &["recv"], 0).contains(TEXTS[0]));
        self.run(&alice, &["verify", "bob"], 0);

        let mut reader = bob.command(&["recv", "--follow", "--json"]);
        let reader = trace(&mut reader).spawn().unwrap();
        self.run(&alice, &["send", GROUP, TEXTS[1]], 0);
        self.run(&second, &["send", GROUP, TEXTS[2]], 0);
        self.place.kill_server();
        self.run(&alice, &["send", GROUP, TEXTS[3], "--timeout", "1"], 7);
        self.place.restart_server();
        self.run(&alice, &["recv"], 0);
        std::thread::sleep(Duration::from_millis(500));
        signal(&reader, "-INT");
        let done = finish(reader);
        assert_eq!(done.code, 130);
        self.note(&bob, &done);
        let rest = self.run(&bob, &["recv"], 0);
        for text in &TEXTS[1..] {
            assert!(done.out.contains(text) || rest.contains(text), "{text}");
        }
        self.run(&alice, &["keys", "refresh"], 0);
        let id = self.run(&second, &["whoami"], 0);
        let id: serde_json::Value = serde_json::from_str(&id).unwrap();
        self.run(&alice, &["devices", "revoke", id["device"].as_str().unwrap()], 0);
        // Bob's device removes the revoked one by itself. That epoch is public like the others: the server's rows are
        // looked at before the next one takes its place.
        let until = Instant::now() + Duration::from_secs(20);
        while self.run(&bob, &["group", "members", GROUP], 0).lines().count() > 2 {
            assert!(Instant::now() < until, "the revoked device is not removed");
        }
        self.run(&bob, &["group", "remove", GROUP, "alice"], 0);
        self.run(&alice, &["recv"], 0);
        self.run(&alice, &["logout"], 0);
        [alice, second, bob]
    }
}

/// Every file under a directory, raw.
fn raw(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        out.extend(if path.is_dir() { raw(&path) } else { std::fs::read(&path).unwrap() });
        out.push(0);
    }
    out
}

#[test]
fn nothing_secret_is_in_logs_nor_with_the_server() {
    let mut story = Story::new();
    let devices = story.tell();
    story.place.kill_server();
    let data = story.place.path("server");
    let log = std::fs::read(story.place.path("server.log")).unwrap();
    let files = raw(&data);
    let stored = stored(&data);
    eprintln!(
        "searched for {} secrets and {} pieces of {} records in {} B and {} B of logs, {} B of files, {} B of rows",
        story.secrets.len(),
        story.records.len(),
        story.seen,
        story.log.len(),
        log.len(),
        files.len(),
        stored.len(),
    );
    // The search would find what is there: ids in the logs, a name in the decrypted rows, the server's own key file.
    let who: serde_json::Value =
        serde_json::from_str(&devices[2].run(&["whoami", "--json"]).out).unwrap();
    let mut control = Secrets::default();
    control.text(
        "account",
        data_encoding::HEXLOWER.decode(who["account"].as_str().unwrap().as_bytes()).unwrap(),
    );
    assert!(control.found_in(&log).contains(&"account (hexadecimal)".to_owned()));
    assert!(control.found_in(&stored).contains(&"account (as it is)".to_owned()));
    for (name, hay) in [("server", &log), ("client", &story.log)] {
        let text = String::from_utf8_lossy(hay);
        assert!(
            text.contains("TRACE") && text.contains("DEBUG"),
            "the {name} did not log all it can"
        );
    }

    // What the server ever had is no secret among the records: key packages, public trees, ciphertexts.
    for rows in story.served.iter().chain([&stored]) {
        assert_eq!(story.secrets.found_in_raw(rows), [""; 0], "in the server's decrypted rows");
        story.records.public(rows);
    }
    assert!(story.records.len() > 10_000, "{}", story.records.len());
    story.secrets.add(story.records);
    for (name, hay) in
        [("client's log", &story.log), ("server's log", &log), ("server's files", &files)]
    {
        assert_eq!(story.secrets.found_in(hay), [""; 0], "in the {name}");
    }
    for device in &devices {
        assert_eq!(story.secrets.found_in_raw(&raw(&device.home)), [""; 0], "in a home");
    }

    // What only the server may know is in no log either.
    let mut own = Secrets::default();
    let key = std::fs::read_to_string(data.join("db.key")).unwrap();
    let key = data_encoding::HEXLOWER.decode(key.trim().as_bytes()).unwrap();
    own.text("the database's key", key.clone());
    let sealed = std::fs::read(data.join("secrets.sealed")).unwrap();
    let key = key.try_into().unwrap();
    let opened =
        seal::open_with_key(crypto::fast(), &key, &sealed, b"qpc-server-secrets-v1").unwrap();
    own.bytes("the server's secrets", &opened);
    assert!(own.len() > 50);
    for hay in [&log, &story.log] {
        assert_eq!(own.found_in(hay), [""; 0]);
    }
}
