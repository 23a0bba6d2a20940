//! Homes: key files, damage, what is in the way.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Place;

#[test]
fn key_files_are_made_and_needed() {
    let place = Place::new();
    let alice = place.registered("alice");
    let file = alice.key_file.clone().unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut without = alice.clone();
    without.key_file = None;
    assert_eq!(without.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
    without.key_file = Some(place.path("another.key"));
    assert_eq!(without.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
    std::fs::write(place.path("another.key"), [3; 32]).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(place.path("another.key"), private).unwrap();
    assert_eq!(without.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(alice.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
}

#[test]
fn damage_is_told() {
    let place = Place::new();
    let alice = place.registered("alice");
    let damaged = (5, "E123 HomeDamaged".to_owned());
    for name in ["key", "state.db", "config.toml"] {
        let file = alice.home.join(name);
        let whole = std::fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[..middle].fill(0xA5);
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(alice.fails(&["whoami"]), damaged, "{name} overwritten");
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        if name != "config.toml" {
            assert_eq!(alice.fails(&["whoami"]), damaged, "{name} cut off");
            std::fs::remove_file(&file).unwrap();
            assert_eq!(alice.fails(&["whoami"]), damaged, "{name} missing");
        }
        std::fs::write(&file, &whole).unwrap();
        alice.ok(&["whoami"]);
    }
}
