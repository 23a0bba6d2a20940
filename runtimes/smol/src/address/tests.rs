use super::*;

const PIN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn every_form_is_printed_as_it_was_read() {
    for text in [
        "qpc://127.0.0.1:7000",
        "qpc://[::1]:7001",
        "qpc://chat.example.org:1",
        &format!("qpc://127.0.0.1:7000#{PIN}"),
        &format!("qpc://[fe80::1]:65535#{PIN}"),
    ] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
}

#[test]
fn port_and_case_of_the_pin_are_free() {
    let address: Address = format!("qpc://host#{}", PIN.to_uppercase()).parse().unwrap();
    assert_eq!(address.to_string(), format!("qpc://host:7000#{PIN}"));
    assert_eq!("qpc://[::1]".parse::<Address>().unwrap().port, DEFAULT_PORT);
}

#[test]
fn each_mistake_has_its_error() {
    for (text, error) in [
        ("http://host", AddressError::Scheme),
        ("127.0.0.1:7000", AddressError::Scheme),
        ("qpc://", AddressError::Host),
        ("qpc://:7000", AddressError::Host),
        ("qpc://::1:7000", AddressError::Host),
        ("qpc://[::1", AddressError::Host),
        ("qpc://[host]:1", AddressError::Host),
        ("qpc://user@host", AddressError::Host),
        ("qpc://host/path", AddressError::Host),
        ("qpc://ho st", AddressError::Host),
        ("qpc://host:0", AddressError::Port),
        ("qpc://host:65536", AddressError::Port),
        ("qpc://host:", AddressError::Port),
        ("qpc://[::1]7000", AddressError::Port),
        ("qpc://host#", AddressError::Pin),
        ("qpc://host#abcd", AddressError::Pin),
        (
            "qpc://host#zz112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            AddressError::Pin,
        ),
    ] {
        assert_eq!(text.parse::<Address>(), Err(error), "{text}");
    }
}
