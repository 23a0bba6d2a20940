//! The home of one device: its directory, who may use it now, and the key that its state is encrypted under.
//!
//! ```text
//! lock         who works on this home: JSON, for people; the lock itself is the operating system's
//! key          the state's key, sealed by the password or by a key file
//! state.db     the state, see `store`
//! config.toml  the server; written when the first login has succeeded
//! ca.pem       whom to trust when the server's address has no pin
//! ```

use core::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use directories::ProjectDirs;
use qpc_protocol::crypto::{self, seal};
use qpc_protocol::id::Digest;
use qpc_server::crash_point;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use crate::problem::{Local, Problem};
use crate::store::SqlStore;

const MAGIC: &[u8] = b"qpc-home-key-";
const VERSION: &[u8] = b"1\n";
const CONTEXT: &[u8] = b"qpc-home-key-v1";
/// The second byte of what `seal` makes under a password; under a key it is 2.
const UNDER_PASSWORD: u8 = 1;
/// No file of a home but the state is longer.
const LONGEST: u64 = 1024 * 1024;

/// What opens a home.
pub(crate) enum Secret {
    Password(Zeroizing<String>),
    KeyFile(Zeroizing<[u8; 32]>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::KeyFile(_) => "KeyFile(…)",
        })
    }
}

/// Which of them a home wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealedBy {
    Password,
    KeyFile,
}

/// What a home remembers in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    /// `qpc://host:port#pin`.
    pub(crate) server: String,
}

/// A home that this process alone works on.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

/// Where the home is when nothing else is said: `$XDG_DATA_HOME/qpc` or what the platform has instead.
pub(crate) fn default_path() -> Result<PathBuf, Problem> {
    let dirs = ProjectDirs::from("", "", "qpc").ok_or_else(|| {
        Problem::new(Local::HomeFile, "this user has no home directory")
            .next("Give one with --home or QPC_HOME.")
    })?;
    Ok(dirs.data_dir().to_owned())
}

/// What is remembered of the server, without opening the home.
pub(crate) fn remembered(path: &Path) -> Result<Option<Remembered>, Problem> {
    let file = path.join("config.toml");
    let Some(text) = read(&file)? else { return Ok(None) };
    let damaged =
        |why: String| Problem::new(Local::HomeDamaged, format!("{}: {why}", file.display()));
    let text = str::from_utf8(&text).map_err(|error| damaged(error.to_string()))?;
    toml::from_str(text).map(Some).map_err(|error| damaged(error.message().to_owned()))
}

/// The remembered authorities, if there are any.
pub(crate) fn remembered_ca(path: &Path) -> Option<PathBuf> {
    Some(path.join("ca.pem")).filter(|file| file.exists())
}

/// What opens a home; `None` if nothing was ever made there. Needs no lock.
pub(crate) fn sealed_by(path: &Path) -> Result<Option<SealedBy>, Problem> {
    let file = path.join("key");
    let Some(bytes) = read(&file)? else {
        if path.join("state.db").exists() && is_finished(path) {
            let text =
                format!("{} is missing: the state cannot be read without it", file.display());
            return Err(Problem::new(Local::HomeDamaged, text));
        }
        return Ok(None);
    };
    let sealed = sealed_part(&file, &bytes)?;
    let by_password = sealed.get(1) == Some(&UNDER_PASSWORD);
    Ok(Some(if by_password { SealedBy::Password } else { SealedBy::KeyFile }))
}

/// Whether a login has ever succeeded in a home.
fn is_finished(path: &Path) -> bool {
    path.join("config.toml").exists()
}

impl Home {
    /// Takes the home of a device that is registered or logged in.
    pub(crate) fn open(path: &Path, verb: &str, wait: Duration) -> Result<Self, Problem> {
        Self::take(path, verb, wait)
    }

    /// Takes a home, making its directory if there is none.
    pub(crate) fn open_or_make(path: &Path, verb: &str, wait: Duration) -> Result<Self, Problem> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| file_problem(path, &error))?;
        Self::take(path, verb, wait)
    }

    fn take(path: &Path, verb: &str, wait: Duration) -> Result<Self, Problem> {
        let failed = |error: io::Error| file_problem(path, &error);
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            // A directory of somebody else's things is not ours to close.
            let ours = path.join("lock").exists() || path.join("key").exists();
            if !ours && fs::read_dir(path).map_err(failed)?.next().is_some() {
                let text = format!(
                    "{} holds other files, and other users may look into it",
                    path.display()
                );
                return Err(Problem::new(Local::HomeFile, text)
                    .next("Choose a directory of its own for --home."));
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let file = path.join("lock");
        let failed = |error: io::Error| file_problem(&file, &error);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(failed)?;
        let mut lock = match lock.try_lock() {
            Ok(()) => lock,
            Err(fs::TryLockError::WouldBlock) => locked_within(lock, wait)
                .map_err(failed)?
                .ok_or_else(|| Problem::new(Local::HomeInUse, in_use(path, &file)))?,
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        };
        let line = json!({ "process": std::process::id(), "verb": verb }).to_string();
        let tell = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            lock.write_all(line.as_bytes())
        };
        tell(&mut lock).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Opens the state. Slow with a password, on purpose.
    pub(crate) fn unlock(&self, secret: &Secret) -> Result<SqlStore, Problem> {
        let file = self.path.join("key");
        let bytes =
            read(&file)?.ok_or_else(|| file_problem(&file, &io::ErrorKind::NotFound.into()))?;
        let sealed = sealed_part(&file, &bytes)?;
        let backend = crypto::fast();
        let key = match secret {
            Secret::Password(password) => seal::open(backend, password.as_bytes(), sealed, CONTEXT)
                .map_err(|_| self.wrong_password())?,
            Secret::KeyFile(key) => {
                seal::open_with_key(backend, key, sealed, CONTEXT).map_err(|_| {
                    Problem::new(
                        Local::KeyFile,
                        "this key file is not the one that the home was made with",
                    )
                })?
            }
        };
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(key.as_slice().try_into().map_err(|_| {
            Problem::new(Local::HomeDamaged, format!("{}: not a key", file.display()))
        })?);
        let state = self.path.join("state.db");
        if !state.exists() && is_finished(&self.path) {
            return Err(Problem::new(
                Local::HomeDamaged,
                format!("{} is missing", state.display()),
            ));
        }
        SqlStore::open(&state, &key)
    }

    fn wrong_password(&self) -> Problem {
        let problem =
            Problem::new(Local::PasswordWrong, "this password does not open the device's state");
        if is_finished(&self.path) {
            return problem;
        }
        problem.next(format!(
            "A registration or login was begun here and never finished. If you do not know its password any more, \
             remove {} and start again.",
            self.path.display()
        ))
    }

    /// Makes the key of a new home, sealed by `secret`.
    pub(crate) fn make_key(&self, secret: &Secret) -> Result<(), Problem> {
        let internal = |error: &dyn fmt::Display| Problem::new(Local::Internal, error.to_string());
        let mut entropy = qpc_smol::entropy().map_err(|error| internal(&error))?;
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(entropy.array());
        let backend = crypto::fast();
        let sealed = match secret {
            Secret::Password(password) => seal::seal(
                backend,
                password.as_bytes(),
                seal::Cost::DEFAULT,
                key.as_slice(),
                CONTEXT,
                &mut entropy,
            ),
            Secret::KeyFile(by) => {
                seal::seal_with_key(backend, by, key.as_slice(), CONTEXT, &mut entropy)
            }
        };
        let sealed = sealed.map_err(|error| internal(&error))?;
        let mut bytes = [MAGIC, VERSION, sealed.as_slice()].concat();
        // A wrong password and a damaged file would look the same without it.
        let sum = Digest::of(&[&bytes]);
        bytes.extend_from_slice(sum.as_bytes());
        write_private(&self.path.join("key"), &bytes)
    }

    /// Remembers the server, and whom to trust for it.
    pub(crate) fn remember(
        &self,
        remembered: &Remembered,
        ca: Option<&Path>,
    ) -> Result<(), Problem> {
        if let Some(ca) = ca {
            let own = self.path.join("ca.pem");
            if ca != own {
                let pem =
                    read(ca)?.ok_or_else(|| file_problem(ca, &io::ErrorKind::NotFound.into()))?;
                write_private(&own, &pem)?;
            }
        }
        let text = toml::to_string(remembered)
            .map_err(|error| Problem::new(Local::Internal, error.to_string()))?;
        write_private(&self.path.join("config.toml"), text.as_bytes())
    }

    /// Takes back what a first registration or login that failed has made. Call it after the state was closed.
    pub(crate) fn undo(&self) {
        if is_finished(&self.path) {
            return;
        }
        for name in ["state.db", "state.db-wal", "state.db-shm", "key"] {
            drop(fs::remove_file(self.path.join(name)));
        }
    }
}

/// Reads a key file: 32 bytes, or 64 hexadecimal digits. With `make`, one that is missing is made.
pub(crate) fn key_file(path: &Path, make: bool) -> Result<Zeroizing<[u8; 32]>, Problem> {
    let bad = |why: &str| Problem::new(Local::KeyFile, format!("{}: {why}", path.display()));
    let Some(text) = read(path)? else {
        if !make {
            return Err(bad("no such file"));
        }
        let mut entropy = qpc_smol::entropy()
            .map_err(|error| Problem::new(Local::Internal, error.to_string()))?;
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(entropy.array());
        write_private(path, key.as_slice())?;
        return Ok(key);
    };
    let mode = fs::metadata(path).map_err(|error| file_problem(path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(bad("other users may read it").next(format!("Run: chmod 600 {path}")));
    }
    let mut key = Zeroizing::new([0; 32]);
    if text.len() == key.len() {
        key.copy_from_slice(&text);
        return Ok(key);
    }
    let digits = text.trim_ascii();
    if digits.len() != 2 * key.len()
        || HEXLOWER_PERMISSIVE.decode_mut(digits, key.as_mut_slice()).is_err()
    {
        return Err(bad("a key file holds 32 bytes or 64 hexadecimal digits"));
    }
    Ok(key)
}

/// Waits for the lock. The thread of one that waited in vain ends with the process.
fn locked_within(lock: File, wait: Duration) -> io::Result<Option<File>> {
    let (done, inbox) = mpsc::channel();
    thread::Builder::new().name("qpc-lock".to_owned()).spawn(move || {
        let locked = lock.lock().map(|()| lock);
        // If nobody waits any more, dropping the file gives the lock back.
        drop(done.send(locked));
    })?;
    match inbox.recv_timeout(wait) {
        Ok(locked) => locked.map(Some),
        Err(_) => Ok(None),
    }
}

fn in_use(path: &Path, lock: &Path) -> String {
    #[derive(Deserialize)]
    struct Holder {
        process: u32,
        verb: String,
    }
    let holder = fs::read(lock).ok().and_then(|text| serde_json::from_slice::<Holder>(&text).ok());
    match holder {
        Some(Holder { process, verb }) => {
            format!("{} is in use by process {process} (qpc {verb})", path.display())
        }
        None => format!("{} is in use by another process", path.display()),
    }
}

/// The sealed part of a key file, after checking that it is whole.
fn sealed_part<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a [u8], Problem> {
    let shown = file.display();
    let damaged = || Problem::new(Local::HomeDamaged, format!("{shown} is damaged"));
    let body = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let Some(body) = body.strip_prefix(VERSION) else {
        let is_number = body.iter().position(|byte| *byte == b'\n').is_some_and(|end| {
            (1..=4).contains(&end) && body[..end].iter().all(u8::is_ascii_digit)
        });
        return Err(if is_number {
            Problem::new(Local::HomeNewer, format!("{shown} was written by a newer program"))
        } else {
            damaged()
        });
    };
    let (sealed, sum) = body.split_last_chunk::<32>().ok_or_else(damaged)?;
    let whole = &bytes[..bytes.len() - sum.len()];
    if Digest::of(&[whole]).0 != *sum || sealed.len() < 2 {
        return Err(damaged());
    }
    Ok(sealed)
}

pub(crate) fn file_problem(path: &Path, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Local::HomeFull,
        _ => Local::HomeFile,
    };
    Problem::new(code, format!("{}: {error}", path.display()))
}

/// Writes a file of mode 0600 in whole and durably, in place of any before.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let write = || {
        // One left by a crash may be anything, of any mode.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        crash_point();
        fs::rename(&fresh, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| file_problem(path, &error))?;
    crash_point();
    Ok(())
}

/// Reads a small file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Problem> {
    let failed = |error: io::Error| file_problem(path, &error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let length = file.metadata().map_err(failed)?.len().min(LONGEST);
    // Enough at once: growing would leave copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
