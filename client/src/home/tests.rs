use super::*;

const WAIT: Duration = Duration::from_millis(50);

fn by_key() -> Secret {
    Secret::KeyFile(Zeroizing::new([9; 32]))
}

fn made(dir: &tempfile::TempDir) -> Home {
    let home = Home::open_or_make(&dir.path().join("home"), "test", WAIT).unwrap();
    home.make_key(&by_key()).unwrap();
    home
}

#[test]
fn a_home_is_private_and_opens_with_its_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let home = made(&dir);
    assert_eq!(sealed_by(&home.path).unwrap(), Some(SealedBy::KeyFile));
    drop(home.unlock(&by_key()).unwrap());
    let wrong = Secret::KeyFile(Zeroizing::new([8; 32]));
    assert!(home.unlock(&wrong).unwrap_err().is(Local::KeyFile));
    for (name, mode) in [(".", 0o700), ("key", 0o600), ("lock", 0o600), ("state.db", 0o600)] {
        let found = fs::metadata(home.path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn a_password_opens_what_it_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open_or_make(&dir.path().join("home"), "test", WAIT).unwrap();
    let secret = |text: &str| Secret::Password(Zeroizing::new(text.to_owned()));
    home.make_key(&secret("right")).unwrap();
    assert_eq!(sealed_by(&home.path).unwrap(), Some(SealedBy::Password));
    drop(home.unlock(&secret("right")).unwrap());
    let wrong = home.unlock(&secret("wrong")).unwrap_err();
    assert!(wrong.is(Local::PasswordWrong) && wrong.next_step().contains("never finished"));
    home.remember(&Remembered { server: "qpc://[::1]:7000".to_owned() }, None).unwrap();
    let wrong = home.unlock(&secret("wrong")).unwrap_err();
    assert!(wrong.is(Local::PasswordWrong) && !wrong.next_step().contains("never finished"));
}

#[test]
fn damage_and_newer_versions_are_told_apart_from_wrong_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let home = made(&dir);
    let file = home.path.join("key");
    let whole = fs::read(&file).unwrap();
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&file, &bytes).unwrap();
        assert!(home.unlock(&by_key()).unwrap_err().is(Local::HomeDamaged), "byte {place}");
        fs::write(&file, &whole[..place]).unwrap();
        assert!(home.unlock(&by_key()).unwrap_err().is(Local::HomeDamaged), "cut at {place}");
    }
    let newer = [MAGIC, b"2\nwhatever".as_slice()].concat();
    fs::write(&file, newer).unwrap();
    assert!(home.unlock(&by_key()).unwrap_err().is(Local::HomeNewer));
    fs::write(&file, &whole).unwrap();
    drop(home.unlock(&by_key()).unwrap());
    home.remember(&Remembered { server: "qpc://[::1]:7000".to_owned() }, None).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(sealed_by(&home.path).unwrap_err().is(Local::HomeDamaged));
}

#[test]
fn a_second_one_waits_or_is_told_who_holds_the_home() {
    let dir = tempfile::tempdir().unwrap();
    let first = made(&dir);
    let path = first.path.clone();
    let told = Home::open(&path, "other", WAIT).unwrap_err();
    assert!(told.is(Local::HomeInUse));
    assert!(told.text().contains(&format!("process {} (qpc test)", std::process::id())), "{told}");
    let later = thread::spawn(move || {
        thread::sleep(WAIT);
        drop(first);
    });
    let second = Home::open(&path, "other", Duration::from_secs(20)).unwrap();
    later.join().unwrap();
    drop(second);
}

#[test]
fn only_an_unfinished_home_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let home = made(&dir);
    drop(home.unlock(&by_key()).unwrap());
    home.undo();
    assert_eq!(sealed_by(&home.path).unwrap(), None);
    home.make_key(&by_key()).unwrap();
    let server = Remembered { server: "qpc://localhost:7000".to_owned() };
    home.remember(&server, None).unwrap();
    home.undo();
    assert_eq!(sealed_by(&home.path).unwrap(), Some(SealedBy::KeyFile));
    assert_eq!(remembered(&home.path).unwrap(), Some(server));
}

#[test]
fn key_files_are_made_once_and_must_be_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    assert!(key_file(&path, false).unwrap_err().is(Local::KeyFile));
    let made = key_file(&path, true).unwrap();
    assert_eq!(*key_file(&path, true).unwrap(), *made);
    let digits = HEXLOWER_PERMISSIVE.encode(made.as_slice()) + "\n";
    fs::write(&path, digits).unwrap();
    assert_eq!(*key_file(&path, false).unwrap(), *made);
    fs::write(&path, "too short").unwrap();
    assert!(key_file(&path, false).unwrap_err().is(Local::KeyFile));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(key_file(&path, false).unwrap_err().text().contains("other users"));
}

#[test]
fn a_directory_of_other_things_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let open = || fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    open();
    fs::write(dir.path().join("letter"), "dear reader").unwrap();
    assert!(Home::open_or_make(dir.path(), "test", WAIT).unwrap_err().is(Local::HomeFile));
    let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o755);
    fs::remove_file(dir.path().join("letter")).unwrap();
    drop(Home::open_or_make(dir.path(), "test", WAIT).unwrap());
    assert_eq!(mode(), 0o700);
}
