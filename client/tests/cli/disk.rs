//! A server whose disk is full.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, finish, limited, qpc};

/// A file system of its own, small, until it is dropped.
struct Small(PathBuf);

impl Small {
    /// `None` where this user may not mount one.
    fn mount(at: &Path) -> Option<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "qpc-test"])
            .arg(at)
            .output();
        match done {
            Ok(done) if done.status.success() => Some(Self(at.to_owned())),
            Ok(done) => skipped(String::from_utf8_lossy(&done.stderr).trim()),
            Err(error) => skipped(&format!("mount: {error}")),
        }
    }

    /// Leaves room for nothing.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [64 * 1024, 4096, 512, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        path
    }
}

/// Past the capture of a test that passes: whoever runs it shall know that it did not run.
fn skipped(why: &str) -> Option<Small> {
    drop(writeln!(
        io::stderr(),
        "\nNOT TESTED: a server on a full file system, for want of one: {why}"
    ));
    None
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the server may still have files open there.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_server_whose_disk_is_full_says_so_and_goes_on_when_there_is_room() {
    let mut place = Place::new();
    place.kill_server();
    let Some(disk) = Small::mount(&place.path("server")) else { return };
    place.restart_server();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    alice.send("team", "before");

    let filler = disk.fill();
    let full = alice.fails(&["send", "team", "meanwhile", "--timeout", "3"]);
    assert_eq!(full, (7, "E140 Queued".to_owned()));
    let nobody = place.device("nobody");
    let register = ["register", "nobody", "--server", &place.address, "--timeout", "10"];
    assert_eq!(nobody.fails(&register), (6, "E003 Unavailable".to_owned()));
    // It still answers what needs no room.
    let ping = qpc(&["ping", "--json", "--server", &place.address]);
    assert_eq!(ping.code, 0, "{}", ping.err);
    // Opening a session is a write.
    let session = bob.run(&["recv", "--json", "--timeout", "3"]);
    let error = session.error();
    assert_eq!((session.code, &error["code"]), (3, &"E102".into()));
    assert!(error["message"].as_str().unwrap().contains("answers, but"), "{error}");
    assert!(error["next"].as_str().unwrap().contains("its disk may be full"), "{error}");
    let log = std::fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.contains("full"), "{log}");

    std::fs::remove_file(filler).unwrap();
    alice.ok(&["group", "list"]);
    alice.send("team", "after");
    assert_eq!(bob.texts(), ["before", "meanwhile", "after"]);
    nobody.ok(&["register", "nobody", "--server", &place.address]);
    // Started again, it has all that it took.
    place.kill_server();
    place.restart_server();
    bob.send("team", "and on");
    assert_eq!(alice.texts(), ["and on"]);
}

/// Text that fills a file: of two devices' homes or of a server's database.
fn long(start: &str) -> String {
    format!("{start} {}", "x".repeat(60_000))
}

#[test]
fn a_server_that_can_write_no_more_loses_nothing() {
    let mut place = Place::new();
    place.kill_server();
    place.limit = Some(2_048);
    place.restart_server();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    let mut sent = Vec::new();
    let refused = loop {
        assert!(sent.len() < 200, "the limit does not hold");
        sent.push(long(&sent.len().to_string()));
        let last = sent.last().unwrap();
        let done = alice.run(&["send", "team", last, "--json", "--timeout", "3"]);
        if done.code != 0 {
            break done;
        }
    };
    assert_eq!((refused.code, &refused.error()["code"]), (7, &"E140".into()), "{}", refused.err);
    let log = std::fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.contains("a transaction failed"), "{log}");

    place.kill_server();
    place.limit = None;
    place.restart_server();
    alice.ok(&["group", "list"]);
    assert_eq!(bob.texts(), sent);
}

#[test]
fn a_home_that_cannot_be_written_loses_nothing() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    let texts: Vec<_> = (0..4).map(|number| long(&number.to_string())).collect();
    for text in &texts {
        alice.send("team", text);
    }
    let done = finish(limited(&bob.command(&["recv", "--json"]), 200).spawn().unwrap());
    let error = done.error();
    assert_eq!((done.code, &error["code"]), (5, &"E125".into()), "{error}");
    let text = |message: &serde_json::Value| message["text"].as_str().unwrap().to_owned();
    let read: Vec<_> = done.objects().iter().map(text).collect();
    let rest = bob.texts();
    // What was printed when the disk was full already could not be noted as read: it comes again, rather than not at
    // all.
    assert!(texts.starts_with(&read) && texts.ends_with(&rest));
    assert!(read.len() + rest.len() >= texts.len());
}
