use super::*;

#[test]
fn nothing_from_others_steers_the_terminal() {
    let hostile = "a\x1b[2Jb\u{9b}31mc\u{202e}d\u{7f}\r\x07";
    for shown in [plain(hostile), indented(hostile), json_line(&json!({ "text": hostile }))] {
        assert!(!shown.chars().any(steers), "{shown:?}");
        assert!(shown.contains('a') && shown.contains('d'));
    }
    let back: Value = serde_json::from_str(&json_line(&json!({ "text": hostile }))).unwrap();
    assert_eq!(back["text"], hostile);
}

#[test]
fn no_line_of_a_message_passes_for_a_line_of_ours() {
    assert_eq!(indented("one\ntwo\r\nthree"), "one\n    two\n    three");
    assert!(!plain("one\ntwo").contains('\n'));
}

#[test]
fn times_are_written_in_utc() {
    assert_eq!(moment(UnixMillis(0)), "1970-01-01T00:00:00Z");
    assert_eq!(moment(UnixMillis(1_700_000_000_999)), "2023-11-14T22:13:20Z");
    assert!(!moment(UnixMillis(u64::MAX)).is_empty());
}
