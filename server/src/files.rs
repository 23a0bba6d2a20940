//! Files that only the server may read, written so that a crash leaves the old or the new, never a half.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::crash::crash_point;
use crate::error::StartError;

/// No private file of ours is longer.
const LONGEST: u64 = 1024 * 1024;

/// A data directory that this process alone works on.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl DataDir {
    /// Makes the directory (mode 0700) if there is none, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let mode = fs::metadata(path).map_err(at(path))?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777),
                "other users may look into the data directory; chmod 700 it");
        }
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(at(&file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StartError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(at(&file)(error)),
        }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Names the file in an error.
pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> StartError {
    let path = path.to_owned();
    move |error| StartError::File { path: path.clone(), error }
}

/// Writes a file of mode 0600 in whole and durably, in place of any before.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StartError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    // One left by a crash may be anything, of any mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&fresh)(error)),
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        crash_point();
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    };
    write().map_err(at(path))?;
    crash_point();
    Ok(())
}

/// Reads a file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StartError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    let length = file.metadata().map_err(at(path))?.len();
    if length > LONGEST {
        return Err(at(path)(io::Error::new(io::ErrorKind::InvalidData, "far too long")));
    }
    // Enough at once: growing would leave copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    (&mut file).take(LONGEST).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(Some(bytes))
}

/// The mode of a file, if users other than its owner may do anything with it.
pub(crate) fn shared_mode(path: &Path) -> Result<Option<u32>, StartError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}
