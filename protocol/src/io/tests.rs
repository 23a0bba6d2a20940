use super::*;

const SECRET: [u8; 32] = [0xA7; 32];

fn shows_nothing(printed: &str) {
    for trace in ["167, 167", "a7a7", "A7A7", "0xa7", "\\xa7"] {
        assert!(!printed.contains(trace), "{printed}");
    }
}

#[test]
fn what_is_secret_is_not_printed() {
    let binding = Binding { kind: BindingKind::TlsExporter, value: SECRET };
    let records = vec![(b"key".to_vec(), SECRET.to_vec())];
    let inputs = [
        Input::Bytes(LinkId(1), &SECRET),
        Input::Loaded(LoadId(2), Ok(records)),
        Input::Connected(ConnId(3), Transport { binding, peer: vec![], links: Links::One }),
    ];
    let printed = inputs.map(|input| format!("{input:?} {input:#?}"));
    for printed in &printed {
        shows_nothing(printed);
    }
    assert!(printed[0].starts_with("Bytes(LinkId(1), 32 bytes)"), "{}", printed[0]);
    assert!(printed[1].starts_with("Loaded(LoadId(2), 1 records)"), "{}", printed[1]);
}
