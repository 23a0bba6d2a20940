//! Where passwords come from: standard input, a file, or a prompt; never an argument.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use zeroize::Zeroizing;

use crate::home::read;
use crate::problem::{Local, Problem};

/// Longest line taken for a password, in bytes; the protocol takes 1,024 after preparation.
const LONGEST: usize = 4 * 1024;

/// Where to take the password from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    pub(crate) stdin: bool,
    pub(crate) file: Option<PathBuf>,
}

impl Source {
    /// The password, prepared as OPAQUE wants it (RFC 8265 OpaqueString), so that one text opens both the account
    /// and the home. `twice`: a prompt asks again, because it is a new one.
    pub(crate) fn password(&self, twice: bool) -> Result<Zeroizing<String>, Problem> {
        let typed = if self.stdin {
            from_stdin()?
        } else if let Some(file) = &self.file {
            let text = read(file)?.ok_or_else(|| {
                let text = format!("{}: no such file", file.display());
                Problem::new(Local::PasswordMissing, text)
            })?;
            first_line(&text)?
        } else {
            prompted(twice)?
        };
        let prepared = OpaqueString::enforce(typed.as_str()).map_err(|_| invalid())?;
        let prepared = Zeroizing::new(prepared.into_owned());
        if prepared.is_empty() { Err(invalid()) } else { Ok(prepared) }
    }
}

fn invalid() -> Problem {
    Problem::new(Local::PasswordInvalid, "this cannot be a password")
}

fn prompted(twice: bool) -> Result<Zeroizing<String>, Problem> {
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
            Problem::new(Local::PasswordMissing, format!("no terminal to ask for it: {error}"))
        })
    };
    if !io::stderr().is_terminal() && !io::stdin().is_terminal() {
        return Err(Problem::new(
            Local::PasswordMissing,
            "no password, and no terminal to ask for it",
        ));
    }
    let password = ask("Password: ")?;
    if twice && *ask("Again: ")? != *password {
        return Err(Problem::new(Local::PasswordMismatch, "the two passwords differ"));
    }
    Ok(password)
}

/// The first line of standard input, byte by byte: what follows stays for the command, and no buffer keeps a copy.
fn from_stdin() -> Result<Zeroizing<String>, Problem> {
    let failed = |error: io::Error| Problem::new(Local::PasswordMissing, error.to_string());
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    while line.len() < LONGEST && stdin.read(byte.as_mut_slice()).map_err(failed)? == 1 {
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    first_line(&line)
}

fn first_line(text: &[u8]) -> Result<Zeroizing<String>, Problem> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Problem::new(Local::PasswordMissing, "the password is empty"));
    }
    let line = str::from_utf8(line).map_err(|_| invalid())?;
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_first_line_prepared() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        // A no-break space becomes a plain one, a decomposed letter a composed one (RFC 8265 §4.2.2).
        std::fs::write(&file, "pa\u{a0}sse\u{301}\r\nsecond line\n").unwrap();
        let source = Source { stdin: false, file: Some(file.clone()) };
        assert_eq!(source.password(true).unwrap().as_str(), "pa ss\u{e9}");
        for bad in ["", "\n", "a\u{7}b", "\u{378}"] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(source.password(false).unwrap_err().exit(), 4, "{bad:?}");
        }
        std::fs::write(&file, b"\xff\xfe").unwrap();
        assert!(source.password(false).unwrap_err().is(Local::PasswordInvalid));
    }
}
