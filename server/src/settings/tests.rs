use super::*;

fn layer(text: &str) -> Layer {
    toml::from_str(text).unwrap()
}

#[test]
fn a_span_is_printed_as_it_was_read() {
    for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800)] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span.0, Duration::from_secs(seconds));
        assert_eq!(span.to_string(), text);
    }
    assert_eq!("120s".parse::<Span>().unwrap().to_string(), "2m");
    for text in
        ["", "7", "d", "-1d", "1.5h", "7D", "7 d", "99999999999999999999d", "999999999999999999d"]
    {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
}

#[test]
fn the_upper_layer_wins_setting_by_setting() {
    let above = layer("listen = '127.0.0.1:1'\nproduction = false");
    let below = layer("listen = '127.0.0.1:2'\nproduction = true\nretention = '2h'");
    let settings = Settings::of(above.over(below)).unwrap();
    assert_eq!(settings.listen.port(), 1);
    assert!(!settings.production);
    assert_eq!(settings.retention.to_string(), "2h");
    assert_eq!(settings.connections, 10_000);
}

#[test]
fn settings_come_back_from_their_own_print() {
    let settings =
        Settings::of(layer("cert = 'a'\nkey = 'b'\npublic-host = 'example.org'")).unwrap();
    let printed = toml::to_string(&settings).unwrap();
    assert_eq!(Settings::of(layer(&printed)).unwrap(), settings);
}

#[test]
fn unknown_names_and_values_out_of_bounds_are_refused() {
    let error = toml::from_str::<Layer>("lisen = '127.0.0.1:1'").unwrap_err();
    assert!(error.to_string().contains("lisen"), "{error}");
    assert!(
        toml::from_str::<Layer>("db-key = '00'").is_err(),
        "a key has no place in a settings file"
    );
    for text in [
        "retention = '30s'",
        "retention = '400d'",
        "access-token-time = '1s'",
        "connections = 0",
        "logins-per-account = 0",
        "logins-per-source = 0",
        "cert = 'a'",
        "key = 'a'",
        "public-host = '[::1]'",
        "public-host = 'host:7000'",
        "public-host = ''",
    ] {
        assert!(Settings::of(layer(text)).is_err(), "{text}");
    }
}

#[test]
fn the_printed_host_can_be_connected_to() {
    for (text, host) in [
        ("listen = '127.0.0.1:1'", "127.0.0.1"),
        ("listen = '0.0.0.0:1'", "127.0.0.1"),
        ("listen = '[::]:1'", "::1"),
        ("listen = '[fe80::1]:1'", "fe80::1"),
        ("listen = '0.0.0.0:1'\npublic-host = 'example.org'", "example.org"),
        ("public-host = '2001:db8::1'", "2001:db8::1"),
    ] {
        assert_eq!(Settings::of(layer(text)).unwrap().public_host(), host, "{text}");
    }
}

#[test]
fn names_with_underscores_are_the_same() {
    let settings =
        Settings::of(layer("connections = 7\nstore-backend = 'memory'\nlog-format = 'json'"));
    let printed = toml::to_string(&settings.unwrap()).unwrap();
    for line in printed.lines() {
        let (name, _) = line.split_once(" = ").unwrap();
        let line = line.replacen(name, &name.replace('-', "_"), 1);
        assert!(toml::from_str::<Layer>(&line).is_ok(), "{line}");
    }
    for name in ["public_host", "db_key_file"] {
        assert!(toml::from_str::<Layer>(&format!("{name} = 'a'")).is_ok(), "{name}");
    }
}
