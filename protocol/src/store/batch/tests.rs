//! What changes and pages mean, on records in memory.

use super::*;

fn records(keys: &[&str]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    keys.iter().map(|key| (key.as_bytes().to_vec(), vec![1])).collect()
}

fn keys(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<String> {
    records.keys().map(|key| String::from_utf8(key.clone()).unwrap()).collect()
}

fn read(prefix: &str, after: Option<&str>, most: usize) -> Vec<String> {
    let page = Page { prefix: prefix.into(), after: after.map(Into::into), most };
    let found = page.read(&records(&["a", "b", "b1", "b2", "b\u{10ffff}", "c"]));
    found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn changes_apply_in_order() {
    let mut all = records(&["a", "b1", "b2", "c"]);
    let ops = [
        Op::Delete(b"a".to_vec()),
        Op::Delete(b"never".to_vec()),
        Op::Put(b"b3".to_vec(), vec![3]),
        Op::DeletePrefix(b"b".to_vec()),
        Op::Put(b"b4".to_vec(), vec![4]),
        Op::Put(b"c".to_vec(), vec![5]),
    ];
    for op in ops {
        let line = serde_json::to_string(&op).unwrap();
        assert!(serde_json::from_str::<Op>(&line).unwrap() == op);
        op.apply(&mut all);
    }
    assert_eq!(keys(&all), ["b4", "c"]);
    assert_eq!(all[b"c".as_slice()], [5]);
    Op::DeletePrefix(Vec::new()).apply(&mut all);
    assert!(all.is_empty());
}

#[test]
fn a_page_begins_after_its_key_and_ends_with_its_prefix() {
    assert_eq!(read("b", None, 9), ["b", "b1", "b2", "b\u{10ffff}"]);
    assert_eq!(read("b", Some("b"), 9), ["b1", "b2", "b\u{10ffff}"]);
    assert_eq!(read("b", Some("b1"), 1), ["b2"]);
    assert_eq!(read("b", Some("b11"), 1), ["b2"]);
    assert_eq!(read("b", Some("a"), 2), ["b", "b1"]);
    assert!(read("b", Some("c"), 9).is_empty());
    assert_eq!(read("", None, 9).len(), 6);
    assert!(read("d", None, 9).is_empty() && read("b", None, 0).is_empty());
}
