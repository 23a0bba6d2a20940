use super::*;

#[test]
fn the_command_line_is_well_formed_and_every_verb_has_an_example() {
    let command = Cli::command();
    command.clone().debug_assert();
    let mut open: Vec<_> = command.get_subcommands().cloned().collect();
    let mut leaves = 0;
    while let Some(verb) = open.pop() {
        if verb.is_hide_set() {
            continue;
        }
        if verb.has_subcommands() {
            open.extend(verb.get_subcommands().cloned());
            continue;
        }
        leaves += 1;
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example") && help.contains("JSON"), "{}", verb.get_name());
    }
    assert!(leaves > 20);
}

#[test]
fn older_names_still_work() {
    for (line, name) in [
        ("register-user alice", "register"),
        ("create-group team", "group"),
        ("invite team bob", "group"),
        ("join", "group"),
        ("fetch-key bob", "verify"),
        ("check-key", "keys"),
        ("refresh-keypackage", "keys"),
        ("register-state", "keys"),
        ("demo-group", "demo"),
        ("whoami", "whoami"),
        ("send team hello --all", "send"),
    ] {
        let words = std::iter::once("qpc").chain(line.split(' '));
        assert_eq!(Cli::try_parse_from(words).unwrap().verb.name(), name, "{line}");
    }
}

#[test]
fn keys_may_get_from_a_day_to_a_year_old() {
    let age = |days: &[&str]| {
        let words = [&["qpc", "recv"], days].concat();
        Cli::try_parse_from(words).map(|cli| cli.global.update().age.as_secs())
    };
    let day = 24 * 60 * 60;
    assert_eq!(age(&[]).unwrap(), 7 * day);
    assert_eq!(age(&["--update-days", "1"]).unwrap(), day);
    assert_eq!(age(&["--update-days", "365"]).unwrap(), 365 * day);
    for days in ["0", "366", "-1", "1.5", "1d", "", "18446744073709551616"] {
        assert!(age(&["--update-days", days]).is_err(), "{days}");
    }
}
