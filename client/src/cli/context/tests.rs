use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::mls::suite::Suite;

use super::*;

fn group(id: u8, name: Option<&str>, member: bool) -> GroupSummary {
    GroupSummary {
        channel: ChannelId([id; 16]),
        kind: ChannelKind::Group,
        name: name.map(str::to_owned),
        description: String::new(),
        avatar: None,
        suite: Suite::Hybrid,
        generation: 1,
        epoch: 1,
        cursor: 1,
        chain: Digest([0; 32]),
        member,
        authenticator: Vec::new(),
        members: 1,
        unread: 0,
    }
}

#[test]
fn a_group_goes_by_name_or_by_the_start_of_its_id() {
    let groups = [group(0xab, Some("team"), true), group(0xcd, None, true)];
    assert_eq!(pick_group(&groups, "team").unwrap(), groups[0]);
    assert_eq!(pick_group(&groups, "abab").unwrap(), groups[0]);
    assert_eq!(pick_group(&groups, "CDCD").unwrap(), groups[1]);
    assert!(pick_group(&groups, "cd").unwrap_err().is(Local::GroupUnknown));
    assert!(pick_group(&groups, "tea").unwrap_err().is(Local::GroupUnknown));
    assert!(pick_group(&groups, "").unwrap_err().is(Local::GroupUnknown));
}

#[test]
fn what_may_mean_two_groups_is_an_error_that_lists_them() {
    // The second is named like the first one's id: a trap laid by whoever named it.
    let groups = [group(0xab, Some("team"), true), group(0xcd, Some("abab"), true)];
    let problem = pick_group(&groups, "abab").unwrap_err();
    assert!(problem.is(Local::GroupAmbiguous));
    assert_eq!(problem.candidate_list().len(), 2);
    let twins = [group(1, Some("team"), true), group(2, Some("team"), true)];
    assert!(pick_group(&twins, "team").unwrap_err().is(Local::GroupAmbiguous));
    let left = [group(1, Some("team"), true), group(2, Some("team"), false)];
    assert_eq!(pick_group(&left, "team").unwrap(), left[0]);
}

#[test]
fn an_at_sign_means_the_direct_channel_and_nothing_else() {
    let direct = GroupSummary { kind: ChannelKind::Direct, ..group(0x41, Some("bob"), true) };
    // Whoever calls a group so gets nothing that is meant for bob.
    let groups = [group(1, Some("@bob"), true), group(2, Some("bob"), true), direct.clone()];
    assert_eq!(pick_group(&groups, "@bob").unwrap(), direct);
    assert_eq!(pick_group(&groups, "@BOB").unwrap(), direct, "as the directory writes it");
    assert_eq!(pick_group(&groups, "bob").unwrap(), groups[1]);
    assert_eq!(pick_group(&groups, "4141").unwrap(), direct);
    assert_eq!(shown_name(&direct), "@bob");
    assert!(pick_group(&groups[..2], "@bob").unwrap_err().is(Local::GroupUnknown));
    assert!(pick_group(&groups, "@").unwrap_err().is(Local::GroupUnknown));
    assert!(pick_group(&groups, "@carol").unwrap_err().is(Local::GroupUnknown));
}
