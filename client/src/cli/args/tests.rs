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
