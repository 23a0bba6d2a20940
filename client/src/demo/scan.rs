//! Searching raw bytes for what must not be there.

use std::fs;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use memchr::memmem;

use crate::home::file_problem;
use crate::problem::Problem;

/// What a scan went through and found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) files: usize,
    pub(super) bytes: usize,
    /// File and needle.
    pub(super) found: Vec<(String, String)>,
}

/// The forms in which a text may lie in a file: as it is, in UTF-16, in hexadecimal, in base64 (all three
/// alignments, without the characters that depend on the neighbours).
fn forms(needle: &str) -> Vec<Vec<u8>> {
    let bytes = needle.as_bytes();
    let mut forms = vec![
        bytes.to_vec(),
        needle.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        HEXLOWER.encode(bytes).into_bytes(),
    ];
    for skip in 0..3 {
        let whole = (bytes.len() - skip.min(bytes.len())) / 3 * 3;
        if whole >= 6 {
            forms.push(BASE64.encode(&bytes[skip..skip + whole]).into_bytes());
        }
    }
    forms
}

/// Searches `bytes`.
pub(super) fn contains(bytes: &[u8], needle: &str) -> bool {
    forms(needle).iter().any(|form| memmem::find(bytes, form).is_some())
}

/// Searches every file under `dir`, byte by byte.
pub(super) fn directory(dir: &Path, needles: &[String]) -> Result<Findings, Problem> {
    let mut findings = Findings::default();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let failed = |error: std::io::Error| file_problem(&path, &error);
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            if entry.is_dir() {
                open.push(entry);
                continue;
            }
            let bytes = fs::read(&entry).map_err(|error| file_problem(&entry, &error))?;
            findings.files += 1;
            findings.bytes += bytes.len();
            let name = entry.display().to_string();
            let hits = needles.iter().filter(|needle| contains(&bytes, needle));
            findings.found.extend(hits.map(|needle| (name.clone(), needle.clone())));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_in_every_form_and_place() {
        let needle = "the lighthouse keeps";
        for before in 0..4 {
            let padded = [vec![b'x'; before], needle.as_bytes().to_vec(), vec![b'y'; 5]].concat();
            let utf16: Vec<u8> = needle.encode_utf16().flat_map(u16::to_le_bytes).collect();
            for bytes in [
                padded.clone(),
                HEXLOWER.encode(&padded).into_bytes(),
                BASE64.encode(&padded).into_bytes(),
                [vec![0; before], utf16].concat(),
            ] {
                assert!(contains(&bytes, needle), "{}", bytes.escape_ascii());
            }
            assert!(!contains(&padded, "the lighthouse sleeps"));
        }
        assert!(!contains(b"the lighthouse keep", needle));
    }

    #[test]
    fn a_directory_is_searched_to_its_last_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("deep/er")).unwrap();
        fs::write(dir.path().join("deep/er/file"), b"..needle-in-here..").unwrap();
        fs::write(dir.path().join("other"), b"nothing").unwrap();
        let findings =
            directory(dir.path(), &["needle-in-here".to_owned(), "absent".to_owned()]).unwrap();
        assert_eq!((findings.files, findings.bytes, findings.found.len()), (2, 25, 1));
    }
}
