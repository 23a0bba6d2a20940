use super::*;

#[test]
fn numbers_and_names_are_unique_and_apart_from_the_servers() {
    let mut seen = std::collections::BTreeSet::new();
    for code in Local::ALL {
        let problem = Problem::new(*code, "text");
        assert!(seen.insert(problem.number()), "{} twice", problem.number());
        assert!(seen.insert(problem.name().to_owned()), "{} twice", problem.name());
        assert!((*code as u16) >= 100);
        assert!(!problem.next_step().is_empty());
        assert_ne!(problem.exit(), 0);
    }
    for code in ErrorCode::ALL {
        assert!(code.number() < 100);
        assert!(!Problem::server(*code, "").next_step().is_empty());
    }
}

#[test]
fn a_servers_refusal_keeps_its_code() {
    let failed = Failed::Server { code: ErrorCode::UsernameTaken, detail: "taken".to_owned() };
    let problem = Problem::from(failed);
    assert_eq!(problem.to_string(), "E015 UsernameTaken: taken");
    assert_eq!(problem.exit(), exit::REFUSED);
    let failed = Failed::Server { code: ErrorCode::LoginFailed, detail: "no".to_owned() };
    assert_eq!(Problem::from(failed).exit(), exit::LOGIN);
}
